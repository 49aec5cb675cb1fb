# Logins with the permissions that docs/security.md lists suffice for publisher and
# consumer, and each of them is needed; the consumer has a URL of its own.  The consumer's memory is
# bounded, and no process runs where nothing is consumed.
use strict;
use warnings;

use CqrsTest;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('login');
$broker->start;
my $node = new_master('login', $broker,
	conf => "cqrs.reconnect_delay_max = '300ms'\n");
is( $node->safe_psql(
		'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item');
	SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cqrs consumer'}),
	"item\n0",
	'nothing is consumed, and no consumer runs');
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql(
	'shop', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register_replica('item')});
wait_for_state($node, 'publishing');

$broker->ctl('add_user', 'shop_replica', 'secret');
my $url = $broker->url =~ s/guest:guest/shop_replica:secret/r;
$node->append_conf('postgresql.conf', "cqrs.consumer_url = '$url'");
$node->reload;

# The permissions of a user in the document: configure, write, read.
sub documented
{
	my ($user) = @_;
	my ($text) =
	  slurp_file(dirname(dirname(dirname(__FILE__))) . '/docs/security.md')
	  =~ /set_permissions -p \/ $user(.*?)```/s
	  or BAIL_OUT("docs/security.md has no permissions of $user");
	my @granted = $text =~ /'([^']*)'/g;

	is(scalar(@granted), 3, "permissions of $user are documented");
	return @granted;
}

my @granted = documented('shop_replica');

# From this version on the lease is the message of a queue.
my ($version) = $broker->ctl('version') =~ /^(\d+\.\d+)/m;
my $tokens = $version >= 4.2;
note "RabbitMQ $version";

# Each permission by itself, as a triple of regular expressions without it.
my @without;
foreach my $kind (0 .. 2)
{
	my ($names) = $granted[$kind] =~ /\((.*)\)/;
	foreach my $name (split /\|/, $names)
	{
		my @triple = @granted;
		my $rest   = join '|', grep { $_ ne $name } split /\|/, $names;
		$triple[$kind] = "^($rest)\$";
		push @without,
		  [ (qw(configure write read))[$kind] . " $name", @triple ]
		  if $tokens
		  || $name !~ /lease/
		  || ($kind == 0 && $name ne 'cqrs\.lease');
	}
}
$broker->ctl('set_permissions', 'shop_replica', '^$', '^$', '^$');
$node->safe_psql('shop', q{SELECT cqrs_consume('shop')});
foreach my $case (@without)
{
	my ($what, @triple) = @$case;

	$broker->ctl('set_permissions', 'shop_replica', @triple);

	# A login keeps what it was permitted; so it logs in again.
	$node->safe_psql('shop', q{SELECT cqrs_pause_consumer()});
	wait_consumer($node, 'shop', 'connected_at IS NULL');

	# A new queue has no message.
	$broker->ctl('delete_queue', 'cqrs.lease.consumer.shop')
	  if $what eq 'write cqrs\.lease';
	my $errors =
	  $node->safe_psql('shop', 'SELECT errors FROM cqrs.consumer_stats');
	$node->safe_psql('shop',
		q{SELECT cqrs_resume_consumer(); SELECT cqrs_consume('shop')});
	ok( $node->poll_query_until(
			'shop',
			"SELECT errors > $errors AND last_error ~ 'ACCESS_REFUSED|access refused'
			FROM cqrs.consumer_stats"),
		"fails without: $what");
}
$broker->ctl('set_permissions', 'shop_replica', @granted);
$node->safe_psql('shop', q{SELECT cqrs_pause_consumer()});
wait_consumer($node, 'shop', 'paused');
my $errors =
  $node->safe_psql('shop', 'SELECT errors FROM cqrs.consumer_stats');
$node->safe_psql('shop', q{SELECT cqrs_resume_consumer()});
wait_consumer($node, 'shop', 'consuming');
$node->safe_psql('postgres', q{INSERT INTO item VALUES (1, 'x')});
$node->poll_query_until('shop', 'SELECT count(*) = 1 FROM item');
is( $node->safe_psql(
		'shop', "SELECT errors - $errors FROM cqrs.consumer_stats"),
	0,
	'the documented permissions suffice');

# The same of the publisher, which has other permissions.
my @publisher = documented('shop_master');
$broker->ctl('add_user', 'shop_master', 'secret');

# Has the publisher log in with these permissions, and a message to send.
sub publish_with
{
	my @triple = @_;

	$broker->ctl('set_permissions', 'shop_master', @triple);
	$node->safe_psql('postgres', 'SELECT cqrs_pause()');
	wait_for_state($node, 'paused');
	$node->safe_psql('postgres',
		q{UPDATE item SET data = data || 'x'; SELECT cqrs_resume()});
	return;
}

publish_with('^$', '^$', '^$');
$node->append_conf('postgresql.conf',
	"cqrs.url = '" . $broker->url =~
	  s/guest:guest/shop_master:secret/r . "'");
$node->reload;
my ($configure, $write, $read) = @publisher;
foreach my $case (
	[ 'configure the exchange', '^cqrs\.lease', $write, $read ],
	[ 'configure the lease',    '^cqrs$',       $write, $read ],
	[ 'write',                  $configure,     '^$',   $read ],
	[ 'read',                   $configure,     $write, '^$' ])
{
	my ($what, @triple) = @$case;
	my $before =
	  $node->safe_psql('postgres', 'SELECT errors FROM cqrs.stats');

	publish_with(@triple);
	ok( $node->poll_query_until(
			'postgres',
			"SELECT errors > $before AND pending > 0
			AND last_error ~ 'ACCESS_REFUSED|access refused'
			FROM cqrs.stats"),
		"the publisher fails without: $what");
}
publish_with(@publisher);
wait_published($node);
$errors = $node->safe_psql('postgres', 'SELECT errors FROM cqrs.stats');
publish_with(@publisher);
wait_published($node);
is($node->safe_psql('postgres', "SELECT errors - $errors FROM cqrs.stats"),
	0, 'the documented permissions suffice');
unlike(
	slurp_file($node->logfile)
	  . $node->safe_psql('shop', 'SELECT * FROM cqrs.consumer_stats')
	  . $node->safe_psql('shop', 'SELECT * FROM cqrs_check()'),
	qr/secret/,
	'the password is shown nowhere');

# Memory: many messages, then large ones.
sub memory_kb
{
	my $pid = $node->safe_psql('shop', 'SELECT pid FROM cqrs.consumer_stats');
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	return $kb;
}

sub send_rows
{
	my ($count, $bytes) = @_;

	$node->safe_psql(
		'postgres',
		"INSERT INTO item SELECT i, repeat('x', $bytes) FROM generate_series(1, $count) i
		ON CONFLICT (id) DO UPDATE SET data = excluded.data");
	wait_applied($broker, $node, 'shop', 'shop');
	return;
}

# A small window, so that the first messages have had all its memory.
$node->safe_psql('postgres', 'ALTER SYSTEM SET cqrs.prefetch = 100');
$node->reload;
send_rows(20000, 10);
my $before = memory_kb();
send_rows(20000, 20) foreach 1 .. 3;
my $after = memory_kb();
note "after 20000 messages: $before kB, after 80000: $after kB";
cmp_ok($after - $before, '<', 2000, 'memory is flat');
send_rows(300, 1_000_000);
is( $node->safe_psql(
		'shop', q{SELECT count(*) FROM item WHERE length(data) = 1000000}),
	300,
	'large messages');
$after = memory_kb();
note "after 300 messages of 1 MB: $after kB";
cmp_ok($after, '<', 400_000, 'their memory is bounded');

$node->stop;
done_testing();

# Redis in trouble: out of memory, frozen, killed; the lease taken by another
# one; wrong and restricted users; several hosts; messages that it cannot take.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use Redis;
use Test::More;
use Time::HiRes qw(time);

my $broker = Redis->new('trouble');
my $copy =
  Redis->new('copy', config => 'replicaof 127.0.0.1 ' . $broker->port);
$broker->start;
my $node = new_master('trouble', $broker, conf => <<'END');
cqrs.reconnect_delay_max = '300ms'
cqrs.connect_timeout = '3s'
cqrs.heartbeat = '1s'
restart_after_crash = on
END
my $rows = 0;
my @expected;

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub change
{
	my ($count) = @_;
	my $first = $rows + 1;

	$rows += $count;
	query(
		"INSERT INTO item SELECT i, 'x' FROM generate_series($first, $rows) i"
	);
	query("UPDATE item SET data = 'y' WHERE id >= $first");
	push @expected,
	  map { ([ 'item', $_, 0 ], [ 'item', $_, 1 ]) } $first .. $rows;
	return;
}

# All that was committed has arrived, in order; returns how many came.
sub arrives
{
	my ($what, $database) = @_;
	my @messages;

	wait_published($node);
	@messages = $broker->drain('replica');
	is(join("\n", ledger_errors(\@messages, \@expected)), '', $what);
	@expected = ();
	return scalar @messages;
}

sub configure
{
	my (%settings) = @_;

	$node->append_conf('postgresql.conf', "cqrs.$_ = '$settings{$_}'")
	  foreach keys %settings;
	$node->reload;
	return;
}

sub wait_error
{
	my ($pattern, $what) = @_;

	$node->poll_query_until('postgres',
		"SELECT last_error ~ '$pattern' FROM cqrs.stats")
	  or BAIL_OUT("$what: " . query('SELECT last_error FROM cqrs.stats'));
	pass($what);
	return;
}

query(
	q{CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
$broker->bind('replica', 'item');
wait_for_state($node, 'publishing');

# Out of memory, for longer than the lease lasts.
$broker->command(qw(CONFIG SET maxmemory 1));
change(500);
wait_for_state($node, 'blocked');
is(query('SELECT pending FROM cqrs.stats'), 1000, 'all is pending');
my $start = time;
$node->poll_query_until('postgres',
	"SELECT now() - interval '5 s' > connected_at FROM cqrs.stats")
  or BAIL_OUT('no time passes');
is(query('SELECT state FROM cqrs.stats'), 'blocked', 'still blocked');
$broker->command(qw(CONFIG SET maxmemory 0));
is(arrives('resumed'), 1000, 'nothing comes twice after a lack of memory');
is(query('SELECT state FROM cqrs.stats'),
	'publishing', 'not blocked any more');

# Frozen.
$broker->suspend;
change(100);
wait_error('nothing came from the broker', 'a frozen server is noticed');
$broker->resume;
arrives('after a frozen server');

# Killed while it takes messages.
foreach my $round (1 .. 3)
{
	my $before = query('SELECT confirmed FROM cqrs.stats');
	change(1000);
	$node->poll_query_until('postgres',
		"SELECT confirmed > $before FROM cqrs.stats");
	$broker->kill9;
	change(100);
	$broker->start;
	arrives("killed and started, round $round");
}

# Stopped while the server is frozen.
$broker->suspend;
change(1000);
$start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 2, 'stops while the server reads nothing');
$broker->resume;
$node->start;
arrives('started again');

# The lease.
my ($lease) = @{ $broker->command('KEYS', 'cqrs.lease.*') };
cmp_ok($broker->command('PTTL', $lease), '>', 500, 'the lease expires later');
$broker->command('SET', $lease, 'another one 0', 'PX', 4000);
change(100);
wait_for_state($node, 'standing by');
is($broker->queue_length('replica'), 0, 'no message without the lease');
arrives('the lease has expired');
$node->stop('fast');
is($broker->command('EXISTS', $lease), 0, 'the lease is given up at the end');
$node->start;
wait_for_state($node, 'publishing');

# A publisher that was killed leaves the lease, and the next one takes it over.
configure(heartbeat => '60s');
$node->restart;
wait_for_state($node, 'publishing');
my $pid = query('SELECT pid FROM cqrs.stats');
$start = time;
kill 'KILL', $pid;
$node->poll_query_until('postgres',
	"SELECT state = 'publishing' AND pid <> $pid FROM cqrs.stats")
  or BAIL_OUT('no publisher');
cmp_ok(time - $start, '<', 60, 'no waiting for a lease of our own');
$broker->command('DEL', $lease);
$node->stop('fast');
$node->append_conf('postgresql.conf', "cqrs.heartbeat = '1s'");
$node->start;

# Users.
my $port = $broker->port;
$broker->command(
	qw(ACL SETUSER limited on >p@ss ~cqrs.* ~_kombu.* ~replica +@all));
configure(url => "redis://limited:wr%40ng\@127.0.0.1:$port/0");
wait_error('refused user and password', 'wrong password');
unlike(slurp_file($node->logfile), qr/wr(@|%40)ng/, 'no password in the log');
configure(url => "redis://limited:p%40ss\@127.0.0.1:$port/0");
wait_for_state($node, 'publishing');
change(10);
arrives('a user with a password');

# The same from a file, in which a database has the place of a vhost.
my $file = "$PostgreSQL::Test::Utils::tmp_check/redis_passwords";
append_to_file($file,
	"*:*:1:limited:another\n127.0.0.1:$port:0:limited:p\@ss\n");
chmod oct('0600'), $file;
my $connects = query('SELECT connects FROM cqrs.stats');
configure(url => "redis://limited\@127.0.0.1:$port", password_file => $file);
$node->poll_query_until('postgres',
	"SELECT state = 'publishing' AND connects > $connects FROM cqrs.stats");
change(10);
arrives('a user whose password is in a file');
configure(url => "redis://limited\@127.0.0.1:$port/2");
wait_error('no line for user "limited"',
	'another database, another password');
configure(url => "redis://limited:p%40ss\@127.0.0.1:$port/0");
wait_for_state($node, 'publishing');
$broker->bind('secret', 'item');
change(10);
wait_error(
	'master "item": .*could not publish',
	'a queue that the user may not write to');
is($broker->queue_length('replica'), 0,
	'and no other queue gets the message');
$broker->command('ACL', 'SETUSER', 'limited', '~secret');
is(arrives('with the permission'), 20, 'once');
$broker->drain('secret');

# Databases.
configure(url => "redis://127.0.0.1:$port/3");
wait_for_state($node, 'publishing');
$broker->commands([ 'SELECT', 3 ],
	[ 'SADD', '_kombu.binding.cqrs', "item\x06\x16^item\$\x06\x16replica" ]);
change(10);
wait_published($node);
is(($broker->commands([ 'SELECT', 3 ], [ 'LLEN', 'replica' ]))[1],
	20, 'database of the URL');
@expected = ();
configure(url => "redis://127.0.0.1:$port/99");
wait_error('select the database', 'a database that is out of range');
configure(url => "redis://127.0.0.1:$port/abc");
wait_error('must be the number', 'a path that is no number');

# Hosts: nobody listens, a replica, and the server.
$copy->start;
my $nobody = RabbitMQ::free_port();
configure(url =>
	  "redis://127.0.0.1:$nobody,127.0.0.1:@{[ $copy->port ]},127.0.0.1:$port/0"
);
wait_for_state($node, 'publishing');
change(10);
arrives('the third host');
like(slurp_file($node->logfile), qr/READONLY/, 'the replica was tried');
$copy->stop;

# A message that the server does not take.
configure(url => $broker->url);
wait_for_state($node, 'publishing');
$broker->command(qw(CONFIG SET proto-max-bulk-len 1mb));
query(q{INSERT INTO item VALUES (-1, repeat('x', 3000000))});
change(10);
$node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM cqrs.parked')
  or BAIL_OUT('not parked: ' . query('SELECT last_error FROM cqrs.stats'));
arrives('what follows a message that is too large');
like(query('SELECT error FROM cqrs.parked'),
	qr/invalid bulk length/, 'reason');

done_testing();

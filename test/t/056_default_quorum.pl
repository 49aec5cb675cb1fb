# Where quorum is the default type of queues, of a vhost or of a broker, publisher,
# consumer and the program that prints messages work as elsewhere.  Before RabbitMQ
# 4.2 the queues of leases are exclusive, which a quorum queue cannot be, and stay
# classic; from then on they are quorum queues in any case.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my ($broker, $vhost, $url, $node);

# Of each queue of the vhost the type, and whether it is exclusive.
sub queues
{
	my %queues;

	foreach my $line (
		split /\n/,
		$broker->ctl(
			'list_queues', '-s', '-p', $vhost, 'name', 'type', 'exclusive'))
	{
		my ($name, $type, $exclusive) = split /\t/, $line;
		$queues{$name} = lc($type =~ /(classic|quorum)/i ? $1 : $type)
		  . (($exclusive // '') eq 'true' ? ', exclusive' : '');
	}
	return %queues;
}

# Major and minor.
sub rabbitmq_version { return $broker->ctl('version') =~ /^(\d+\.\d+)/m; }

# Runs the program that prints messages, and returns what it printed.
sub run_program
{
	my @arguments = @_;
	my ($stdout, $stderr);

	IPC::Run::run([ $ENV{CQRS_CONSUME}, '--url', $url, @arguments ],
		'>', \$stdout, '2>', \$stderr)
	  or BAIL_OUT("@arguments: $stderr");
	return $stdout;
}

# Waits until the replica has the rows of the master.
sub same_rows
{
	my ($what) = @_;
	my $sql = q{SELECT string_agg(i::text, ' ' ORDER BY id) FROM item i};

	wait_published($node);
	$node->safe_psql('postgres', $sql) ne ''
	  or BAIL_OUT('the master has no rows');
	ok( $node->poll_query_until(
			'shop', $sql, $node->safe_psql('postgres', $sql)),
		$what);
	return;
}

sub try_with
{
	my ($name) = @_;

	$node = new_master(
		$name, undef,
		init => [ allows_streaming => 1 ],
		conf => "cqrs.url = '$url'\ncqrs.reconnect_delay_max = '500ms'\n");
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE item (id int PRIMARY KEY, name text);
		SELECT cqrs_register('item')});
	$node->safe_psql(
		'shop', q{
		CREATE EXTENSION cqrs;
		CREATE TABLE item (id int PRIMARY KEY, name text);
		SELECT cqrs_register_replica('item');
		SELECT cqrs_consume('shop')});
	wait_consumer($node, 'shop', 'consuming');
	run_program('--queue', 'printed', '--bind', 'item', '--declare-only');
	$node->safe_psql('postgres',
		q{INSERT INTO item SELECT i, 'row ' || i FROM generate_series(1, 5000) i}
	);
	same_rows("$name: rows arrive");
	is( scalar(
			split /\n/, run_program('--queue', 'printed', '--count', 5000)),
		5000,
		"$name: the program prints them");

	my %queues = queues();
	is_deeply(
		{ map { $_ => $queues{$_} } qw(shop printed) },
		{ map { $_ => 'quorum' } qw(shop printed) },
		"$name: quorum queues");
	my @leases = sort grep { /^cqrs\.lease\./ } keys %queues;
	cmp_ok(scalar @leases, '>=', 2, "$name: @leases");
	is_deeply(
		[ @queues{@leases} ],
		[   (   (rabbitmq_version())[0] >= 4.2
				? 'quorum'
				: 'classic, exclusive') x @leases ],
		"$name: leases");

	# A copy of the server gets neither of the leases.
	$node->backup('copy');
	my $copy = PostgreSQL::Test::Cluster->new("${name}_copy");
	$copy->init_from_backup($node, 'copy');
	$copy->start;
	wait_for_state($copy, 'standing by');
	wait_consumer($copy, 'shop', 'standing by');
	pass("$name: a copy stands by");
	$copy->stop('immediate');

	$broker->restart;
	$node->safe_psql('postgres',
		q{UPDATE item SET name = 'after' WHERE id % 2 = 0; DELETE FROM item WHERE id % 3 = 0}
	);
	same_rows("$name: the broker was restarted");

	# A queue that had been there before the default was quorum.
	run_program(
		'--queue', 'old',  '--queue-type', 'classic',
		'--bind',  'item', '--declare-only');
	$node->safe_psql('shop', 'SELECT cqrs_stop_consuming(true)');
	$node->poll_query_until('shop', 'SELECT count(*) = 0 FROM cqrs.consumer')
	  or BAIL_OUT('the queue is not dropped');
	$node->safe_psql('shop', q{SELECT cqrs_consume('old')});
	wait_consumer($node, 'shop', "state = 'consuming' AND queue = 'old'");
	$node->safe_psql('postgres', q{UPDATE item SET name = 'old'});
	same_rows("$name: by a queue that is classic");
	%queues = queues();
	is_deeply(
		[ @queues{qw(old shop)} ],
		[ 'classic', undef ],
		"$name: it stays classic, the other one is dropped");
	$node->stop;
	$broker->stop;
	return;
}

$broker = RabbitMQ->new('vhost');
$broker->start;
$vhost = 'of_quorum';
$url   = $broker->url . "/$vhost";
$broker->ctl('add_vhost',       $vhost, '--default-queue-type', 'quorum');
$broker->ctl('set_permissions', '-p',   $vhost, 'guest', ('.*') x 3);
my ($release) = $broker->ctl('version') =~ /^(\d+)\./m;
try_with('vhost');

SKIP:
{
	skip 'RabbitMQ has no setting for that', 1 if $release < 4;

	# The default of vhosts without one; the first vhost is made when the node
	# starts for the first time.
	$broker =
	  RabbitMQ->new('setting', config => "default_queue_type = quorum\n");
	$broker->start;
	$vhost = '/';
	$url   = $broker->url;
	try_with('setting');
}
done_testing();

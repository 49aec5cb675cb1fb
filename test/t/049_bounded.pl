# What is done in one go is bounded: a turn of the publisher that skips many
# messages, and the memory of functions that go through many.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $SKIPPED    = 400_000;
my $LOOK_TURN  = 20_000;      # of backlog.c
my $PARKED     = 20_000;
my $ALLOWED_KB = 64 * 1024;

my $broker = RabbitMQ->new('bounded');
$broker->start;
my $node = new_master('bounded', $broker, conf => <<'END');
autovacuum = off
shared_buffers = '8MB'
cqrs.unroutable = 'keep'
cqrs.reconnect_delay = '60s'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE held (id int PRIMARY KEY);
	CREATE TABLE bulk (id int PRIMARY KEY);
	CREATE TABLE parks (id int PRIMARY KEY, data text);
	SELECT cqrs_register('held'), cqrs_register('bulk'), cqrs_register('parks')}
);
wait_for_state($node, 'publishing');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Transactions in the database, which this query is not in.
sub transactions
{
	return $node->safe_psql('template1',
		q{SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'}
	);
}

# No message has a queue.  When the first one gets it, the reader skips those of
# the other master behind it.  Nothing but the publisher works in the database
# while its turns are counted.
query('INSERT INTO held VALUES (1)');
query("INSERT INTO bulk SELECT generate_series(1, $SKIPPED)");
$node->poll_query_until('postgres', 'SELECT held = 2 FROM cqrs.stats')
  or BAIL_OUT('not held');
my $before = transactions();
declare_queue($broker, 'held', 'held');
$node->reload;
RabbitMQ->poll_until(
	sub {
		return slurp_file($node->logfile) =~
		  /messages of master "held" are published again/;
	},
	60) or BAIL_OUT('still held');

# A process reports its transactions when it ends.
$node->restart;
cmp_ok(
	transactions() - $before,
	'>=',
	$SKIPPED / $LOOK_TURN,
	'a turn skips a part only');
is($broker->queue_length('held'), 1, 'the held message has arrived');

# The memory of a session that parks messages and sends them again.
my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);

sub peak_kb
{
	my ($sql) = @_;

	$out = '';
	$in .= "$sql; SELECT 'pid ' || pg_backend_pid();\n";
	$session->pump until $out =~ /^pid (\d+)$/m or $err;
	is($err, '', $sql);
	my ($peak) = slurp_file("/proc/$1/status") =~ /^VmHWM:\s+(\d+) kB/m;
	return $peak;
}

query('SELECT cqrs_pause()');
query(
	"INSERT INTO parks SELECT i, repeat('x', 4000) FROM generate_series(1, $PARKED) i"
);
my $peak  = peak_kb(q{SELECT cqrs_park_held('held')});
my $parks = peak_kb(q{SELECT cqrs_park_held('parks')});
cmp_ok($parks - $peak, '<', $ALLOWED_KB, 'parking is bounded');
my $retries = peak_kb(q{SELECT cqrs_retry_parked('parks')});
cmp_ok($retries - $parks, '<', $ALLOWED_KB, 'sending again is bounded');
is(query('SELECT count(*) FROM cqrs.parked'), 0, 'all are sent again');
$in .= "\\q\n";
$session->finish;

$node->stop;
done_testing();

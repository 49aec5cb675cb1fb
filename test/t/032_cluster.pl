# A cluster of three brokers with a quorum queue: while each of its nodes in turn
# is killed under load, publishing goes on with the others, and everything
# arrives, in order.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $PROGRESS = 300;    # messages confirmed between two faults

# Of a stall, in seconds.  What a node sends to the leader of a quorum queue that
# has just died is sent again after ten seconds by RabbitMQ itself
# (rabbit_fifo_client.erl, TIMER_TIME), and once more where the election was not
# over by then: 19.8 to 22.8 s were seen.  Nothing but the confirms is late.
my $LIMIT_S = 35;

my @brokers = RabbitMQ->cluster('cluster', 3, queue_type => 'quorum');
my $hosts   = join ',', map { '127.0.0.1:' . $_->port } @brokers;
my $node    = new_master('cluster', undef, conf => <<"END");
cqrs.url = 'amqp://guest:guest\@$hosts'
cqrs.reconnect_delay_max = '500ms'
END
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id serial PRIMARY KEY, n int DEFAULT 0);
	SELECT cqrs_register('item');
	INSERT INTO item SELECT FROM generate_series(1, 10)});
declare_queue($brokers[0], 'replica', 'item');
like(
	$brokers[0]->ctl(qw(list_queues -s name type members)),
	qr/^replica\s+quorum\s+\[(?:cqrs_cluster\d\S+,? ?){3}\]$/m,
	'a queue with three members');

my $load = start_pgbench($node, 'postgres', <<'END', '-c', 4, '-R', 150);
\set hot random(1, 10)
\set end random(1, 5)
BEGIN;
INSERT INTO item (n) VALUES (0);
UPDATE item SET n = n + 1 WHERE id = :hot;
\if :end = 1
ROLLBACK;
\else
COMMIT;
\endif
END

# Waits until messages are confirmed again; returns how long that took.
sub wait_for_progress
{
	my ($what) = @_;
	my $start = time;
	my $base =
	  $node->safe_psql('postgres', 'SELECT confirmed FROM cqrs.stats');

	$node->poll_query_until('postgres',
		"SELECT confirmed >= $base + $PROGRESS FROM cqrs.stats")
	  or BAIL_OUT("nothing is published: $what");
	note sprintf '%s: %d messages in %.1f s', $what, $PROGRESS, time - $start;
	return time - $start;
}

# The broker that the publisher is connected to, if it is.
sub broker_in_use
{
	my $pid     = $node->safe_psql('postgres', 'SELECT pid FROM cqrs.stats');
	my %sockets = map { $_ => 1 }
	  map { (readlink($_) // '') =~ /^socket:\[(\d+)\]/ }
	  glob("/proc/$pid/fd/*");

	foreach my $line (split /\n/, slurp_file('/proc/net/tcp'))
	{
		my (undef, undef, $peer, $state, @rest) = split ' ', $line;
		next unless $state eq '01' && $sockets{ $rest[5] };
		my $port = hex((split /:/, $peer)[1]);
		return grep { $_->port == $port } @brokers;
	}
	return;
}

wait_for_progress('before');
my %killed;
foreach my $round (1 .. 3)
{
	# First the one in use, then those that are left.
	my ($broker) =
	  grep { $_ && !$killed{ $_->name } } broker_in_use(), @brokers;

	$killed{ $broker->name } = 1;
	$broker->kill9;
	cmp_ok(wait_for_progress($broker->name . ' is killed'),
		'<', $LIMIT_S, 'publishing goes on with two nodes of three');
	$broker->start;
	$broker->ctl('await_startup');
	wait_for_progress($broker->name . ' is back');
}
is(scalar(keys %killed), 3, 'each node was killed');

stop_pgbench($node, $load);
wait_published($node);
my @expected = map { [ 'item', split /\|/ ] } split /\n/, $node->safe_psql(
	'postgres',
	'SELECT id, revision FROM item,
		generate_series(0, cqrs_revision) revision');
my @messages = drain_queue($brokers[0], 'replica');
my @errors   = ledger_errors(\@messages, \@expected);
splice @errors, 20 if @errors > 20;
is(join("\n", @errors), '', 'nothing is lost or out of order');
my %ids = map { $_->{properties}{message_id} => 1 } @messages;
is(scalar(keys %ids), scalar(@expected), 'nothing is invented');
note scalar(@messages), ' messages, ', @messages - keys %ids, ' repetitions';
is($node->safe_psql('postgres', 'SELECT parked, held FROM cqrs.stats'),
	'0|0', 'nothing is parked or held');
$node->stop;
done_testing();

# What no synchronous standby has is not acknowledged, whoever cancels the wait
# for it.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('commitwait');
$broker->start;
my $node =
  new_master('commitwait', $broker, init => [ allows_streaming => 1 ]);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('author');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

# Sends a new row.
sub send_row
{
	my ($pk) = @_;

	publish($broker, 'cqrs', 'author', save_body('author', $pk, 'Ada'));
	return;
}

# Before the first one the consumer commits that it runs.
send_row(1);
wait_consumer($node, 'postgres', 'inserted = 1 AND buffered = 0');
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
send_row(2);
my $waits = q{FROM pg_stat_activity
	WHERE backend_type = 'cqrs consumer' AND wait_event = 'SyncRep'};
$node->poll_query_until('postgres', "SELECT count(*) = 1 $waits")
  or BAIL_OUT('the consumer does not wait for the standby');
is($node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) $waits"),
	't', 'the wait of a message is cancelled');
is($broker->queue_length('shop'), 1, 'the message is not acknowledged');
is($node->safe_psql('postgres', "SELECT count(*) $waits"),
	1, 'the consumer still waits');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
wait_consumer($node, 'postgres', 'inserted = 2 AND buffered = 0');
is($broker->queue_length('shop'), 0, 'it is, when it need not wait');
unlike(
	slurp_file($node->logfile),
	qr/canceling wait for synchronous replication/,
	'no wait has ended early');
$node->stop;
done_testing();

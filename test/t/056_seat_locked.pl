# A transaction that stays open after cqrs_pause_consumer() stops the consumer
# from writing to cqrs.consumer: it waits, in the same process, and does not take
# a message for one that crashes the server.
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('seat');
$broker->start;
my $master = new_master('master', $broker);
my $node   = new_master('seat', $broker,
	conf =>
	  "cqrs.reconnect_delay_max = '200ms'\nmax_prepared_transactions = 1\n");
$_->safe_psql('postgres', 'CREATE TABLE item (id int PRIMARY KEY, data text)')
  foreach $master, $node;
$master->safe_psql('postgres', q{SELECT cqrs_register('item')});
$node->safe_psql('postgres',
	q{SELECT cqrs_register_replica('item'); SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

# Has a row sent, and waits for it.
sub arrives
{
	my ($id, $what) = @_;

	$master->safe_psql('postgres', "INSERT INTO item VALUES ($id, 'x')");
	ok( $node->poll_query_until(
			'postgres', "SELECT count(*) = 1 FROM item WHERE id = $id"),
		$what);
	return;
}

# Opens a transaction that has locked cqrs.consumer; end_transaction() ends it.
my ($in, $out, $err, $session);

sub lock_seat
{
	my ($where, $command) = @_;
	$where   //= $node;
	$command //= 'SELECT cqrs_pause_consumer()';

	($in, $out, $err) = ('', '', '');
	$session = open_psql($where, \$in, \$out, \$err);
	$in      = "BEGIN; $command; SELECT 'locked';\n";
	$session->pump until $out =~ /^locked$/m;
	return;
}

sub end_transaction
{
	$in .= "ROLLBACK;\n\\q\n";
	$session->finish;
	return;
}

my $PROCESS = 'SELECT pid, started_at FROM cqrs.consumer_stats';

arrives(1, 'the consumer consumes');
my $before = $node->safe_psql('postgres', $PROCESS);
lock_seat();
$broker->ctl('close_all_connections', 'test');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT last_error LIKE '%could not write to cqrs.consumer: canceling statement due to lock timeout%'
		FROM cqrs.consumer_stats}),
	'last_error says what the consumer waits for');
end_transaction();
wait_consumer($node, 'postgres', 'consuming');
arrives(2, 'it goes on');
is($node->safe_psql('postgres', $PROCESS), $before, 'in the same process');

# A process that waits for the lock ends all the same.
lock_seat();
$broker->ctl('close_all_connections', 'test');
$node->poll_query_until(
	'postgres', q{SELECT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type = 'cqrs consumer' AND wait_event_type = 'Lock')}
) or BAIL_OUT('the consumer waits for no lock');
my ($pid) = split /\|/, $before;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok( $node->poll_query_until(
		'postgres',
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"),
	'the consumer can be ended while cqrs.consumer is locked');
end_transaction();
wait_consumer($node, 'postgres', 'consuming');

# The next one is wary, because that one could not write that it ended in order.
# What it cannot write either is no end of the process.
$before = $node->safe_psql('postgres', $PROCESS);
lock_seat();
$master->safe_psql('postgres', q{INSERT INTO item VALUES (3, 'x')});
wait_consumer($node, 'postgres', 'backing off');
end_transaction();
ok( $node->poll_query_until(
		'postgres', 'SELECT count(*) = 1 FROM item WHERE id = 3'),
	'a wary consumer goes on');
is($node->safe_psql('postgres', $PROCESS), $before, 'in the same process');

# A publisher that cannot read the table begins all the same.
lock_seat($master, 'LOCK TABLE cqrs.consumer');
$master->safe_psql('postgres',
	'SELECT pg_terminate_backend(pid) FROM cqrs.lanes');
arrives(4, 'a publisher that starts does not wait for cqrs.consumer');
end_transaction();

# COMMIT PREPARED tells the consumer, too.
$node->safe_psql('postgres',
	q{BEGIN; SELECT cqrs_pause_consumer(); PREPARE TRANSACTION 'p'});
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
wait_consumer($node, 'postgres', 'paused');

# It starts one, too, and settings of the database count.
$node->safe_psql('postgres', 'SELECT cqrs_stop_consuming()');
$node->poll_query_until('postgres',
	'SELECT pid IS NULL FROM cqrs.consumer_stats')
  or BAIL_OUT('the consumer has not left');
$node->safe_psql('postgres',
	q{BEGIN; SELECT cqrs_consume('shop'); PREPARE TRANSACTION 'p'});
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
wait_consumer($node, 'postgres', 'consuming');
pass('cqrs_consume() in a prepared transaction');
$node->safe_psql('postgres',
	q{BEGIN; ALTER DATABASE postgres SET cqrs.consumer_url = 'amqp://127.0.0.1:1'; PREPARE TRANSACTION 'p'}
);
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
wait_consumer($node, 'postgres',
	q{state = 'waiting' AND last_error LIKE '%refused%'});
pass('a setting of a prepared transaction');

$_->stop foreach $node, $master;
done_testing();

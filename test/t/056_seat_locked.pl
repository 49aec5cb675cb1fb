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
my $node = new_master('seat', $broker,
	conf => "cqrs.reconnect_delay_max = '200ms'\n");
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

arrives(1, 'the consumer consumes');
my $process = 'SELECT pid, started_at FROM cqrs.consumer_stats';
my $before  = $node->safe_psql('postgres', $process);

my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
$in = "BEGIN; SELECT cqrs_pause_consumer(); SELECT 'locked';\n";
$session->pump until $out =~ /^locked$/m;
$broker->ctl('close_all_connections', 'test');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT last_error LIKE '%could not write to cqrs.consumer: canceling statement due to lock timeout%'
		FROM cqrs.consumer_stats}),
	'last_error says what the consumer waits for');
$in .= "ROLLBACK;\n\\q\n";
$session->finish;
wait_consumer($node, 'postgres', 'consuming');
arrives(2, 'it goes on');
is($node->safe_psql('postgres', $process), $before, 'in the same process');

$_->stop foreach $node, $master;
done_testing();

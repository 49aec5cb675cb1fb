# cqrs_consume() counts after cqrs_stop_consuming(true), also while the queue is
# being dropped; a row that cannot be deleted after its queue is tried later.
use strict;
use warnings;

use Bench qw(cpu_s);
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('again');
$broker->start;
my $node =
  new_master('again', $broker, conf => "cqrs.reconnect_delay = '5s'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text);
	SELECT cqrs_register_replica('author');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
$in .= "SELECT cqrs_stop_consuming(true);\nBEGIN;\n"
  . "SELECT cqrs_consume('shop');\nSELECT 'called';\n";
$session->pump until $out =~ /called/ || $err;
ok( RabbitMQ->poll_until(
		sub { return !defined $broker->queue_length('shop') }, 60),
	'the queue is dropped');
$in .= "COMMIT;\n\\q\n";
$session->finish;
ok( RabbitMQ->poll_until(
		sub { return defined $broker->queue_length('shop') }, 60),
	'and declared anew, because cqrs_consume() was called after that');
wait_consumer($node, 'postgres', 'consuming');
is($node->safe_psql('postgres', 'SELECT dropping FROM cqrs.consumer'),
	'f', 'this database consumes it');

# The row is locked as soon as the queue is dropped.
my @in  = ('', '');
my @out = ('', '');
my @err = ('', '');
my @sessions =
  map { open_psql($node, \$in[$_], \$out[$_], \$err[$_]) } 0 .. 1;
$in[0] .= "BEGIN;\nSELECT cqrs_stop_consuming(true);\nSELECT 'called';\n";
$sessions[0]->pump until $out[0] =~ /called/ || $err[0];
$in[1] .=
  "BEGIN;\nLOCK TABLE cqrs.consumer IN SHARE MODE;\nSELECT 'locked';\n";
$sessions[1]->pump_nb;
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'}
) or BAIL_OUT('nobody waits for the lock');
$in[0] .= "COMMIT;\n\\q\n";
$sessions[0]->finish;
$sessions[1]->pump until $out[1] =~ /locked/ || $err[1];
wait_consumer($node, 'postgres', 'backing off');
ok(!defined $broker->queue_length('shop'), 'the queue is dropped first');
my $pid = $node->safe_psql('postgres', 'SELECT pid FROM cqrs.consumer_stats');
my $cpu_s = cpu_s($pid);

# Two more attempts to delete the row, of 5 seconds each, and the pauses.
$node->poll_query_until(
	'postgres',
	'SELECT errors >= '
	  . (
		$node->safe_psql(
			'postgres', 'SELECT errors FROM cqrs.consumer_stats') + 2)
	  . ' FROM cqrs.consumer_stats'
) or BAIL_OUT('the row is not tried again');
cmp_ok(cpu_s($pid) - $cpu_s, '<', 1,
	'the consumer waits for the lock calmly');
ok(!defined $broker->queue_length('shop'), 'and makes no queue meanwhile');
$in[1] .= "ROLLBACK;\n\\q\n";
$sessions[1]->finish;
ok( $node->poll_query_until(
		'postgres', 'SELECT count(*) = 0 FROM cqrs.consumer'),
	'in the end, the row is gone');
$node->stop;
done_testing();

# Of two copies that begin with the same epoch, the one that has missed messages
# stands by (I28), also where an epoch could not be written to the database, or not to
# the broker.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('epoch');
$broker->start;
my $master = new_master('master', $broker);
$master->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY);
	SELECT cqrs_register('item')});
my $node = new_master(
	'original', $broker,
	init => [ allows_streaming => 1 ],
	conf => "cqrs.reconnect_delay_max = '30s'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY);
	SELECT cqrs_register_replica('item');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

# A copy that waits for an end of the original, and does not run yet.
sub copy
{
	my ($name) = @_;

	$node->backup($name);
	my $copy = PostgreSQL::Test::Cluster->new($name);
	$copy->init_from_backup($node, $name);
	$copy->append_conf('postgresql.conf',
		"cqrs.reconnect_delay_max = '200ms'");
	bless $copy, ref $node;
	return $copy;
}

sub stands_by
{
	my ($at, $what) = @_;

	ok( $at->poll_query_until(
			'postgres', q{
			SELECT state = 'standing by' AND last_error LIKE '%another database%'
			FROM cqrs.consumer_stats}),
		$what);
	return;
}

# The original cannot raise its epoch, because of a lock, however often it tries.
my $copy = copy('copy1');
my ($in, $out, $err) = ('', '', '');
my $session = open_psql($node, \$in, \$out, \$err);
$in .= "BEGIN;\nLOCK TABLE cqrs.consumer IN SHARE MODE;\nSELECT 'locked';\n";
$session->pump until $out =~ /locked/ || $err;
$broker->ctl('close_all_connections', 'once more');
wait_consumer($node, 'postgres',
	q{state = 'waiting' AND last_error LIKE 'could not write to cqrs.consumer%'}
);
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
$copy->start;
wait_consumer($copy, 'postgres', 'consuming');
row_arrives($master, $copy, 'a copy consumes');
$in .= "ROLLBACK;\n\\q\n";
$session->finish;
$copy->stop;
stands_by($node,
	'the original sees that, although it has tried to raise its epoch');

# What another database consumes is not dropped.
$node->safe_psql('postgres', 'SELECT cqrs_stop_consuming(true)');
like(
	$node->safe_psql(
		'postgres',
		q{SELECT status, detail, remedy FROM cqrs_check() WHERE item = 'consumer'}
	),
	qr/^error\|.*another database.*\|SELECT cqrs_stop_consuming\(\)/,
	'cqrs_check says why the queue is not dropped');
$node->safe_psql('postgres', 'SELECT cqrs_stop_consuming()');
$node->poll_query_until('postgres',
	q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'cqrs consumer'}
) or BAIL_OUT('the consumer goes on');
ok(defined $broker->queue_length('shop'), 'and it is there still');
$node->safe_psql('postgres', q{SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');
row_arrives($master, $node, 'the original has the queue again');

# The original raises its epoch, and may not write the mark, to the exchange "".
$node->stop;
$copy->clean_node;
$node->start;
wait_consumer($node, 'postgres', 'consuming');
$copy = copy('copy2');
$broker->ctl('set_permissions', 'guest', '.*', '^(shop|cqrs\.lease.*)$',
	'.*');
$node->restart;
wait_consumer($node, 'postgres',
	q{state = 'consuming' AND last_error LIKE 'could not write the mark%403%'}
);
$node->stop;
$broker->ctl('set_permissions', 'guest', '.*', '.*', '.*');
$copy->start;
wait_consumer($copy, 'postgres', 'consuming');
row_arrives($master, $copy, 'a copy from before raises the same epoch');
$copy->stop;
$node->start;
stands_by($node, 'the original sees that it is not its own');

$_->stop foreach $node, $master;
done_testing();

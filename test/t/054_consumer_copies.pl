# Of several copies of a database one consumes (I28): not two at a time, and none
# after another one that has consumed since.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('copies');
$broker->start;
my $master = new_master('master', $broker);
$master->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
my $node = new_master(
	'original', $broker,
	init => [ allows_streaming => 1 ],
	conf => "cqrs.heartbeat = '2s'\ncqrs.reconnect_delay_max = '500ms'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text CHECK (data <> 'bad'));
	SELECT cqrs_register_replica('item', retry_delay => '1h');
	SELECT cqrs_consume('shop')});
wait_consumer($node, 'postgres', 'consuming');

row_arrives($master, $node, 'the original consumes');
$master->safe_psql('postgres', q{INSERT INTO item VALUES (1000, 'bad')});
wait_consumer($node, 'postgres', 'waiting = 1');

# A copy while the original runs has no lease.
my $epoch = $node->safe_psql('postgres', 'SELECT epoch FROM cqrs.consumer');
$node->backup('copy');
my $clone = PostgreSQL::Test::Cluster->new('clone');
$clone->init_from_backup($node, 'copy');
$clone->start;
$clone->poll_query_until(
	'postgres',
	q{SELECT state = 'standing by' AND last_error ~ 'lease: .*(405|another connection)'
	FROM cqrs.consumer_stats}) or BAIL_OUT('the clone does not stand by');
pass('a copy stands by while the original consumes');
row_arrives($master, $node, 'the original goes on');

# What has failed is in the tables of both.
$clone->safe_psql('postgres',
	'ALTER TABLE item DROP CONSTRAINT item_data_check; SELECT cqrs_retry_failed()'
);
wait_consumer($clone, 'postgres', 'waiting = 0 AND retried = 1');
is($clone->safe_psql('postgres', 'SELECT data FROM item WHERE id = 1000'),
	'bad', 'a copy that stands by tries its failed messages');
is( $node->safe_psql(
		'postgres',
		'SELECT instance_pk FROM cqrs.failed WHERE next_try > now()'),
	1000,
	'and those of the original stay');

# The epoch is raised with each connection, and some time after a commit: from
# then on the copy is behind, even if it is the first to have the lease.
$node->poll_query_until('postgres',
	"SELECT epoch > $epoch FROM cqrs.consumer")
  or BAIL_OUT('the epoch is not raised');

# The broker's mark follows the row; no message is applied in between.
row_arrives($master, $node, 'the original consumes with another epoch');
$node->restart;
row_arrives($master, $node, 'the original comes back');

# The original ends; the copy is behind it, and must not take its queue.
$node->stop;
$clone->poll_query_until(
	'postgres',
	q{SELECT state = 'standing by' AND last_error LIKE '%another database%'
	FROM cqrs.consumer_stats}) or BAIL_OUT('the clone consumes');
pass('a copy stands by when the original has consumed since');
is( scalar(
		() =
		  slurp_file($clone->logfile) =~
		  /another database has consumed queue/g),
	1,
	'that is logged once');
$node->start;
row_arrives($master, $node, 'the original takes up its queue again');

# The operator's word.
$node->stop;
$clone->safe_psql('postgres', q{SELECT cqrs_consume('shop')});
wait_consumer($clone, 'postgres', 'consuming');
row_arrives($master, $clone, 'cqrs_consume takes over');
$clone->restart;
row_arrives($master, $clone, 'and that lasts');
$node->start;
$node->poll_query_until('postgres',
	q{SELECT state = 'standing by' FROM cqrs.consumer_stats})
  or BAIL_OUT('the original does not stand by');
$clone->stop;
$node->poll_query_until(
	'postgres',
	q{SELECT state = 'standing by' AND last_error LIKE '%another database%'
	FROM cqrs.consumer_stats}) or BAIL_OUT('the original consumes');
pass('the original stands by now');
$node->stop;
$clone->start;
wait_consumer($clone, 'postgres', 'consuming');

# A standby does not consume; promoted, it goes on by itself.
$clone->append_conf('postgresql.conf',
	"max_wal_senders = 5\nwal_level = replica");
$clone->restart;
wait_consumer($clone, 'postgres', 'consuming');
$clone->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($clone, 'standby', has_streaming => 1);
$standby->start;
row_arrives($master, $clone, 'the primary consumes');
$clone->wait_for_catchup($standby, 'replay', $clone->lsn('insert'));
is( $standby->safe_psql(
		'postgres',
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cqrs consumer'}
	),
	0,
	'a standby does not');

# What the primary has acknowledged since then is lost with it.
$standby->stop;
my $lost =
  row_arrives($master, $clone, 'the primary consumes without its standby');
$clone->stop('immediate');
$standby->start;
$standby->promote;
wait_consumer($standby, 'postgres', 'consuming');
row_arrives($master, $standby, 'a promoted standby goes on by itself');
is( $standby->safe_psql(
		'postgres', "SELECT count(*) FROM item WHERE id = $lost"),
	0,
	'a row that the standby did not get is missing');
like(
	$standby->safe_psql(
		'postgres',
		q{SELECT status, remedy FROM cqrs_check() WHERE item = 'consumer timeline'}
	),
	qr/^warning\|.*cqrs_sync/,
	'cqrs_check says that the last messages may be missing');
$master->safe_psql('postgres',
	q{SELECT cqrs_sync('item', 'cqrs_updated > now() - interval ''1 hour''', 'shop')}
);
ok( $standby->poll_query_until(
		'postgres', "SELECT count(*) = 1 FROM item WHERE id = $lost"),
	'the master sends it again');
$standby->safe_psql('postgres', q{SELECT cqrs_consume('shop')});
ok( $standby->poll_query_until(
		'postgres',
		q{SELECT NOT EXISTS (SELECT FROM cqrs_check() WHERE item = 'consumer timeline')
		FROM cqrs.consumer WHERE epoch IS NOT NULL}),
	'cqrs_consume ends the warning');

# A mark that cannot be raised does not stop the consumer: a memory alarm.
$broker->ctl('set_vm_memory_high_watermark', '0.0000001');
$standby->restart;
wait_consumer($standby, 'postgres', 'consuming');
pass('the consumer goes on while the broker blocks publishers');
$broker->ctl('set_vm_memory_high_watermark', '0.4');
wait_published($master);
row_arrives($master, $standby, 'after the alarm');

$_->stop foreach $standby, $master;
done_testing();

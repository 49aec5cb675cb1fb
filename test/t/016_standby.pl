# A standby publishes nothing; after its promotion it publishes all that was
# replicated (I31).  A held snapshot and an idle transaction are no burden.
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $broker = RabbitMQ->new('standby');
$broker->start;
my $node = new_master(
	'first', $broker,
	init => [ allows_streaming => 1 ],
	conf => "cqrs.reconnect_delay_max = '300ms'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item')});
declare_queue($broker, 'replica', 'item');
wait_for_state($node, 'publishing');

# Somebody holds a snapshot, and a transaction id.
my ($in, $out, $err) = ('', '', '');
my $holder = open_psql($node, \$in, \$out, \$err);
$in .=
  "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current() > 0, 'held';\n";
$holder->pump until $out =~ /held/ || $err;
is($err, '', 'a snapshot is held');
foreach my $round (1 .. 4)
{
	$node->safe_psql(
		'postgres',
		"INSERT INTO item SELECT i, (SELECT string_agg(md5(i || '.' || j), '')
			FROM generate_series(1, 16) j)
		FROM generate_series($round * 10000, $round * 10000 + 4999) i"
	);
	wait_published($node);
}
my $start = time;
$node->safe_psql('postgres', q{INSERT INTO item VALUES (1, 'x')});
wait_published($node);
cmp_ok(time - $start, '<', 3, 'messages are published at once');
is( $node->safe_psql(
		'postgres', q{
		SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_all_tables
		WHERE relid IN (SELECT oid FROM pg_class
			WHERE relnamespace = 'cqrs'::regnamespace)}),
	0,
	'no dead rows');
$node->poll_query_until(
	'postgres', q{
	SELECT sum(pg_relation_size(s)) < 2 * 1024 * 1024
	FROM unnest(ARRAY['cqrs.segment_0', 'cqrs.segment_1',
		'cqrs.segment_2']::regclass[]) s}) or BAIL_OUT('segments are not emptied');
pass('segments are emptied');
$in .= "COMMIT;\n\\q\n";
$holder->finish;
arrived_keys($broker, 'replica');

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
is( $standby->safe_psql(
		'postgres', q{
		SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cqrs%'}),
	0,
	'no publisher on a standby');
is($standby->safe_psql('postgres', 'SELECT state FROM cqrs.stats'),
	'stopped', 'and its state says so');
is( $standby->safe_psql(
		'postgres', q{SELECT * FROM cqrs_check() WHERE status <> 'ok'}),
	'',
	'which is as it should be');

$broker->stop;
$node->safe_psql('postgres',
	q{INSERT INTO item SELECT i, 'x' FROM generate_series(100001, 100500) i});
$node->wait_for_catchup($standby);

# What the standby never gets to know: its ids are not used again.
$standby->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''});
$standby->reload;
$standby->poll_query_until('postgres',
	'SELECT count(*) = 0 FROM pg_stat_wal_receiver')
  or BAIL_OUT('still streaming');
$node->safe_psql('postgres', "INSERT INTO item VALUES ($_, 'lost')")
  foreach 200001 .. 200005;
my %lost = map { $_ => 1 } split /\n/,
  $node->safe_psql('postgres',
	'SELECT id FROM cqrs.outbox WHERE instance_pk::int > 200000');
is(scalar(keys %lost), 5, 'messages that are not replicated');
is($standby->safe_psql('postgres', 'SELECT pending FROM cqrs.stats'),
	500, 'the outbox is replicated');
$node->stop('immediate');
$broker->start;
$standby->promote;
wait_published($standby);
my %seen = map { $_ => 1 } arrived_keys($broker, 'replica');
is(scalar(grep { $seen{$_} } 100001 .. 100500),
	500, 'after the promotion everything is published');

$broker->stop;
$standby->safe_psql('postgres', "INSERT INTO item VALUES ($_, 'new')")
  foreach 300001 .. 300005;
my @new = split /\n/,
  $standby->safe_psql('postgres',
	'SELECT id FROM cqrs.outbox WHERE instance_pk::int > 300000');
is(scalar(grep { !$lost{$_} } @new),
	5, 'new messages have ids that nobody has used');
$broker->start;
wait_published($standby);
%seen = map { $_ => 1 } arrived_keys($broker, 'replica');
is(scalar(grep { $seen{$_} } 300001 .. 300005), 5, 'and are published');

$standby->stop;
done_testing();

# Several lanes (cqrs.publishers): each row is published by one of them, none
# waits for another, and their number can change at any time (I12).  A copy
# waits for all of them (I13).
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;
use Time::HiRes qw(time);

my $broker = RabbitMQ->new('lanes');
$broker->start;
my $node = new_master(
	'lanes', $broker,
	init => [ allows_streaming => 1 ],
	conf => <<'END');
cqrs.publishers = 3
cqrs.heartbeat = 0
cqrs.reconnect_delay_max = '500ms'
END

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub wait_until
{
	my ($condition) = @_;

	$node->poll_query_until('postgres',
		"SELECT coalesce(($condition), false)")
	  or BAIL_OUT(
		"not reached: $condition; " . query('SELECT * FROM cqrs.lanes'));
	return;
}

sub wait_for_lanes
{
	my ($count) = @_;

	wait_until(
		"SELECT count(*) = $count AND bool_and(state = 'publishing')
		FROM cqrs.lanes");
	return;
}

sub lane_pid
{
	my ($lane) = @_;
	return query("SELECT pid FROM cqrs.lanes WHERE lane = $lane");
}

sub set_lanes
{
	my ($count) = @_;
	$node->append_conf('postgresql.conf', "cqrs.publishers = $count");
	$node->reload;
	return;
}

# What has arrived: for each key the list of its messages.
sub arrived
{
	my %arrived;
	push @{ $arrived{ $_->{body}{instance_pk} } }, $_
	  foreach drain_queue($broker, 'replica');
	return %arrived;
}

# How many messages of each lane's are confirmed.
sub confirmed
{
	return split /,/,
	  query(
		q{SELECT string_agg(confirmed::text, ',' ORDER BY lane) FROM cqrs.lanes}
	  );
}

# lane_of() gives what hash_combine() makes of master and key; hashtext() is the
# hash of bytes.
query(
	q{
	CREATE TABLE item (id int PRIMARY KEY, data text);
	SELECT cqrs_register('item');
	CREATE FUNCTION lane_of(id int, lanes int) RETURNS int LANGUAGE sql AS $$
		SELECT (((a # (b + 2654435769 + (a << 6) + (a >> 2))) & 4294967295) % lanes)::int
		FROM (VALUES (hashtext('item')::bigint & 4294967295,
			hashtext(id::text)::bigint & 4294967295)) v(a, b) $$});
declare_queue($broker, 'replica', 'item');
wait_for_lanes(3);
foreach my $lane (0 .. 2)
{
	like(
		slurp_file('/proc/' . lane_pid($lane) . '/cmdline'),
		qr/cqrs publisher for database \d+ lane $lane\b/,
		"publisher of lane $lane");
}
is($broker->ctl('list_connections', '-s', 'pid') =~ tr/\n//,
	3, 'with a connection each');
is( query(
		q{SELECT state, connects, started_at IS NOT NULL, connected_at IS NOT NULL
		FROM cqrs.stats}),
	'publishing|3|t|t',
	'cqrs.stats sums them up');
is(query(q{SELECT status FROM cqrs_check() WHERE item = 'publisher'}),
	'ok', 'cqrs_check');

# Each row has its lane.
query('INSERT INTO item SELECT i FROM generate_series(1, 300) i');
wait_published($node);
my $expected = query(
	q{SELECT string_agg(n::text, ',' ORDER BY lane)
	FROM (SELECT lane_of(id, 3) AS lane, count(*) AS n FROM item GROUP BY 1) l});
is(join(',', confirmed()), $expected, 'rows have their lanes by the hash');
is(query('SELECT confirmed FROM cqrs.stats'), 300, 'each message once');
is(scalar(keys %{ { arrived() } }),           300, 'all arrive');

# One lane does nothing any more: the others go on, and may restart.
my $others = 'lane_of(id, 3) <> 1';
my $frozen = lane_pid(1);
my @before = confirmed();
kill 'STOP', $frozen;
is( $node->safe_psql(
		'postgres', q{
		UPDATE item SET data = 'second';
		UPDATE item SET data = 'third';
		SELECT cqrs_wait_published('100 ms')}),
	'f',
	'cqrs_wait_published waits for all lanes');
wait_until(
	"SELECT sum(confirmed) = $before[0] + $before[2]
	+ 2 * (SELECT count(*) FROM item WHERE $others)
	FROM cqrs.lanes WHERE lane <> 1");
my %arrived = arrived();
is( join(',', sort { $a <=> $b } keys %arrived),
	query(
		"SELECT string_agg(id::text, ',' ORDER BY id) FROM item WHERE $others"
	),
	'while a lane is stuck, the rows of the others arrive');
is(scalar(grep { @$_ != 2 } values %arrived), 0, 'with all their messages');
my $killed = lane_pid(2);
query("SELECT pg_terminate_backend($killed)");
wait_until(
	"SELECT state = 'publishing' AND pid <> $killed FROM cqrs.lanes WHERE lane = 2"
);
query("UPDATE item SET data = 'fourth' WHERE lane_of(id, 3) = 2");
wait_until(
	"SELECT confirmed = (SELECT 4 * count(*) FROM item WHERE lane_of(id, 3) = 2)
	FROM cqrs.lanes WHERE lane = 2");
%arrived = arrived();
is(scalar(grep { @$_ != 1 } values %arrived),
	0, 'a lane that is restarted goes on where it was');
my $held_back = query('SELECT last_value FROM cqrs.watermark');
my $psql_out  = '';
my $waiter    = IPC::Run::start(
	[   'psql', '-XAtq',
		'-d',   $node->connstr('postgres'),
		'-c',   'INSERT INTO item VALUES (1000)',
		'-c',   'SELECT cqrs_wait_published()' ],
	'<',
	'/dev/null',
	'>',
	\$psql_out);
wait_until(
	q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE query LIKE '%cqrs_wait_published()%' AND wait_event_type = 'Extension'
		AND pid <> pg_backend_pid()});
kill 'CONT', $frozen;
$waiter->finish;
is($psql_out, "t\n", 'and returns when the last one is done');
wait_published($node);
%arrived = arrived();
is( join(',', sort { $a <=> $b } keys %arrived),
	query(
		"SELECT string_agg(id::text, ',' ORDER BY id) FROM item WHERE NOT $others OR id = 1000"
	),
	'then those of the stuck lane arrive');
cmp_ok(query('SELECT last_value FROM cqrs.watermark'),
	'>', $held_back, 'the watermark waits for it');

# Pausing.
query('SELECT cqrs_pause()');
wait_until(q{SELECT bool_and(state = 'paused') FROM cqrs.lanes});
query(q{INSERT INTO item SELECT i FROM generate_series(2001, 2030) i});
query('SELECT cqrs_resume()');
wait_published($node);
is(scalar(keys %{ { arrived() } }), 30, 'cqrs_pause and cqrs_resume');
wait_for_lanes(3);

# The same order under writers, while the number changes.
my $writers = start_pgbench($node, 'postgres', <<'END', '-c', 4, '-R', 400);
\set id random(1, 40)
UPDATE item SET data = 'busy' WHERE id = :id;
END
foreach my $count (1, 3, 2, 5, 3)
{
	set_lanes($count);
	wait_for_lanes($count);
	my $confirmed = query('SELECT confirmed FROM cqrs.stats');
	wait_until("SELECT confirmed > $confirmed + 200 FROM cqrs.stats");
}
stop_pgbench($node, $writers);
wait_published($node);
my @messages = drain_queue($broker, 'replica');
my @saves    = map { [ 'item', split /\|/ ] } split /\n/,
  query(
	'SELECT id, revision FROM item, generate_series(3, cqrs_revision) revision WHERE id <= 40'
  );
@saves = grep { $_->[2] > 3 } @saves;
my %seen;
my $duplicates = grep { $seen{ $_->{properties}{message_id} }++ } @messages;
note scalar(@messages), " messages, $duplicates duplicates";
is(join("\n", ledger_errors(\@messages, \@saves)),
	'', 'the number of lanes changes: all arrives, in order of each row');

# Segments are recycled, whichever lane is the last to be done.
query(
	q{INSERT INTO item SELECT i, (SELECT string_agg(md5(i || '.' || j), '')
		FROM generate_series(1, 20) j) FROM generate_series(10001, 20000) i}
);
wait_published($node);
wait_until(
	q{SELECT sum(pg_relation_size(s)) < 1024 * 1024 FROM unnest(ARRAY[
	'cqrs.segment_0', 'cqrs.segment_1', 'cqrs.segment_2']::regclass[]) s});
pass('segments are recycled');
drain_queue($broker, 'replica');

# A stop in order leaves nothing to be sent again.  So far nothing has woken a
# lane for the sake of time; from here on heartbeats do.
$node->append_conf('postgresql.conf', q{cqrs.heartbeat = '2s'});
my ($published, $confirmed) =
  split /\|/, query('SELECT published, confirmed FROM cqrs.stats');
$node->restart;
wait_for_lanes(3);
query(q{INSERT INTO item VALUES (30001)});
wait_published($node);
%arrived = arrived();
is(join(',', keys %arrived), '30001', 'a restart sends nothing again');
is( query('SELECT published, confirmed FROM cqrs.stats'),
	($published + 1) . '|' . ($confirmed + 1),
	'counters of all lanes outlast it, those of former lanes, too');

# Databases with lanes are dropped, extensions too.
query('CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION cqrs');
my $other = q{SELECT count(*) FROM pg_stat_activity
	WHERE backend_type = 'cqrs publisher' AND datname = 'other'};
foreach my $round (1, 2)
{
	wait_until("($other) = 3");
	$node->safe_psql('other', 'DROP EXTENSION cqrs');
	wait_until("($other) = 0");
	$node->safe_psql('other', 'CREATE EXTENSION cqrs');
}
wait_until("($other) = 3");
my ($status, undef, $stderr) = $node->psql('postgres', 'DROP DATABASE other');
is($status, 0, 'DROP DATABASE with several publishers') or diag $stderr;

# A copy does not publish while any lane of the original is connected.
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', 'SELECT state FROM cqrs.stats'),
	'stopped', 'a standby has no publisher');
$standby->promote;
$standby->poll_query_until('postgres',
	'SELECT count(pid) = 3 FROM cqrs.lanes')
  or BAIL_OUT('not all lanes of the promoted standby are started');
$standby->stop;
kill 'STOP', my $leader = lane_pid(0);
RabbitMQ->poll_until(
	sub {
		return ($broker->ctl('list_connections', '-s', 'pid') =~ tr/\n//) ==
		  2;
	},
	60) or BAIL_OUT('the broker does not miss lane 0');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'copy');
$copy->append_conf('postgresql.conf', 'cqrs.publishers = 2');
$copy->start;
$copy->poll_query_until('postgres',
	q{SELECT state = 'standing by' AND last_error ~ 'lease of all lanes: .*(405|another connection)' FROM cqrs.stats}
) or BAIL_OUT('the copy does not stand by');
pass('a copy stands by though lane 0 of the original is gone');
$copy->safe_psql('postgres',
	q{INSERT INTO item VALUES (40001), (40002), (40003)});
query('UPDATE item SET data = NULL WHERE id <= 100');
wait_until(
	"SELECT sum(confirmed) >= (SELECT count(*) FROM item
		WHERE id <= 100 AND lane_of(id, 3) <> 0)
	FROM cqrs.lanes WHERE lane <> 0");
kill 'CONT', $leader;
wait_published($node);
wait_for_lanes(3);
%arrived = arrived();
is( join(',', sort { $a <=> $b } keys %arrived),
	join(',', 1 .. 100),
	'the original publishes, the copy does not');
$node->stop('fast');
wait_published($copy);
%arrived = arrived();
ok( $arrived{40001} && $arrived{40002} && $arrived{40003},
	'the copy takes over when the original goes');
$node->start;
wait_until(
	q{SELECT state = 'standing by' AND connected_at IS NULL FROM cqrs.stats});
is(query(q{SELECT count(connected_at) FROM cqrs.lanes}),
	0, 'no lane of the original connects now');
$copy->stop;
wait_for_lanes(3);
wait_published($node);

# Stopping does not depend on the broker.
my $unconfirmed = query(
	q{SELECT string_agg((published - confirmed)::text, ',' ORDER BY lane) FROM cqrs.lanes}
);
$broker->suspend;
query(q{INSERT INTO item SELECT i FROM generate_series(50001, 60000) i});
wait_until(
	"SELECT bool_and(published - confirmed - ('{$unconfirmed}'::int[])[lane + 1] > 1000) FROM cqrs.lanes"
);
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 2, 'all lanes stop within two seconds');
$broker->resume;

# Too few workers: PostgreSQL's and our launcher have two of them.  While another
# database is looked into, that takes one as well; then lane 1 is warned of first,
# and lane 2 a minute later.
my $offset = -s $node->logfile;
$node->append_conf('postgresql.conf', 'max_worker_processes = 4');
$node->start;
wait_until(q{SELECT count(*) = 2 FROM cqrs.lanes WHERE state = 'publishing'});
wait_until(q{SELECT state = 'stopped' FROM cqrs.stats});
ok( RabbitMQ->poll_until(
		sub {
			return slurp_file($node->logfile, $offset) =~
			  /no background worker is free for a cqrs publisher\n.*DETAIL:  The messages of lane 2 wait/;
		},
		90),
	'a warning names the lane that does not run');
is( query(
		q{SELECT string_agg(item || '|' || status || '|' || detail, E'\n') FROM cqrs_check()
		WHERE item IN ('publisher', 'broker')}),
	"publisher|error|publishers run, but not that of lane 2\n"
	  . 'broker|warning|connected, but not lane 2',
	'as does cqrs_check');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
wait_published($node);
my %last = arrived();
is(scalar(grep { $_ > 50000 } keys %last), 10000, 'and nothing is lost');

$node->stop;
done_testing();

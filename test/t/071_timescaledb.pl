# Hypertables of TimescaleDB: as masters, with chunks that are there and chunks
# that come later; what is refused; dumps.  Only where TimescaleDB is installed,
# as Debian 13 has it; "make test PROVE_TESTS=test/t/071_timescaledb.pl".
use strict;
use warnings;

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $libdir = `pg_config --pkglibdir` =~ s/\n\z//r;
plan skip_all => 'TimescaleDB is not installed'
  unless -e "$libdir/timescaledb.so";

my $broker = RabbitMQ->new('timescaledb');
$broker->start;
my $node =
  new_master('timescaledb', $broker, extension => 0, conf => <<'END');
shared_preload_libraries = 'timescaledb, cqrs'
timescaledb.telemetry_level = off
END
my $consumer = start_consumer($broker, 'replica', 'metric', 'narrow');

sub query
{
	my ($sql, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', $sql);
}

# Messages that have arrived since the last call: signal, master, device, value.
sub arrived
{
	wait_published($node);
	my $seen = $consumer->{count} // 0;
	my $sent = query(q{SELECT sum(published) FROM cqrs.stats});
	my @all  = wait_for_messages($consumer, $sent);
	$consumer->{count} = @all;
	return join ', ', map {
		my $body = $_->{body};
		join ' ', $body->{signal_type}, $body->{cqrs_id},
		  ref $body->{instance_pk}
		  ? $body->{instance_pk}[0]
		  : $body->{instance_pk},
		  $body->{instance_data}{v} // ()
	} @all[ $seen .. $#all ];
}

sub error_of
{
	my ($sql,    $expected, $name) = @_;
	my ($status, $out,      $err)  = $node->psql('postgres', $sql);
	like($err, $expected, $name);
	return;
}

query(
	q{
	CREATE EXTENSION timescaledb;
	CREATE EXTENSION cqrs;
	CREATE TABLE metric (gone int, at timestamptz, dev int, v text,
		PRIMARY KEY (dev, at));
	SELECT create_hypertable('metric', 'at');
	INSERT INTO metric VALUES (1, '2026-01-01', 1, 'old');
	ALTER TABLE metric DROP COLUMN gone;
	SELECT cqrs_register('metric', tracked_fields => '{v}');
	SELECT cqrs_register('metric', 'narrow', fields => '{dev,at}',
		sync_when => 'dev < 10')});
wait_for_state($node, 'publishing');

# The first chunk has another layout than those that come later.
query(
	q{INSERT INTO metric VALUES ('2026-01-02', 2, 'a'), ('2026-03-01', 3, 'b');
	COPY metric (at, dev, v) FROM stdin;
2026-05-01	11	c
\.
});
is( arrived(),
	'SAVE metric 2 a, SAVE narrow 2, SAVE metric 3 b, SAVE narrow 3, '
	  . 'SAVE metric 11 c',
	'INSERT and COPY, into new chunks as well');
query(q{UPDATE metric SET v = v || '2' WHERE dev IN (1, 3)});
query(
	q{INSERT INTO metric VALUES ('2026-05-01', 11, 'd')
	ON CONFLICT (dev, at) DO UPDATE SET v = excluded.v});
query(
	q{MERGE INTO metric USING (VALUES (11, timestamptz '2026-05-01')) s (d, t)
	ON dev = d AND at = t WHEN MATCHED THEN UPDATE SET v = 'e'});
is( arrived(),
	'SAVE metric 1 old2, SAVE narrow 1, SAVE metric 3 b2, SAVE narrow 3, '
	  . 'SAVE metric 11 d, SAVE metric 11 e',
	'UPDATE, upsert and MERGE');
query(
	q{UPDATE metric SET at = at + interval '1 h' WHERE dev = 11;
	DELETE FROM metric WHERE dev = 3});
is( arrived(),
	'DELETE metric 11, SAVE metric 11 e, DELETE metric 3, DELETE narrow 3',
	'a change of the key within a chunk, and DELETE');
query(
	q{BEGIN; SAVEPOINT a; INSERT INTO metric VALUES ('2020-01-01', 4, 'never');
	ROLLBACK TO a; INSERT INTO metric VALUES ('2021-01-01', 4, 'a');
	UPDATE metric SET v = 'b' WHERE dev = 4; COMMIT});
is( arrived(),
	'SAVE metric 4 b, SAVE narrow 4',
	'a chunk that a savepoint takes back');

# What reads the table finds the rows of chunks.
is(query(q{SELECT cqrs_sync('narrow')}), 4, 'cqrs_sync reads chunks');
is( join(', ', sort split /, /, arrived()),
	'SYNC narrow 1, SYNC narrow 2, SYNC narrow 4',
	'cqrs_sync sends their rows');
query(q{SELECT cqrs_sync(metric) FROM metric WHERE dev = 11});
is(arrived(), 'SYNC metric 11 e', 'a single row');
query(q{CALL cqrs_sync_all('metric', batch_size => 1)});
is( join(', ', sort split /, /, arrived()),
	'SYNC metric 1 old2, SYNC metric 11 e, SYNC metric 2 a, SYNC metric 4 b',
	'cqrs_sync_all');
like(
	query(q{SELECT cqrs_diff_master('metric')}),
	qr/(?=.*\[1,)(?=.*\[2,)(?=.*\[4,)(?=.*\[11,)/,
	'cqrs_diff_master');

# Whoever inserts need not own the hypertable.
query(
	q{CREATE ROLE writer; GRANT INSERT ON metric TO writer;
	SET ROLE writer; INSERT INTO metric VALUES ('2027-01-01', 5, 'w')});
is( arrived(),
	'SAVE metric 5 w, SAVE narrow 5',
	'a chunk made by another role');

# Dropped chunks send nothing, as documented; TRUNCATE sends DELETEs.
query(
	q{SELECT drop_chunks('metric', older_than => timestamptz '2025-01-01')});
is(arrived(), '', 'drop_chunks');
query(
	q{BEGIN; UPDATE metric SET v = 'x' WHERE dev = 1; TRUNCATE metric;
	INSERT INTO metric VALUES ('2026-01-01', 1, 'again'); COMMIT});
is( join(', ', sort split /, /, arrived()),
	'DELETE metric 1, DELETE metric 11, DELETE metric 2, DELETE metric 5, '
	  . 'DELETE narrow 1, DELETE narrow 2, DELETE narrow 5, '
	  . 'SAVE metric 1 again, SAVE narrow 1',
	'TRUNCATE');
is( query(
		q{SELECT string_agg(item || ' ' || status, ', ' ORDER BY item)
		FROM cqrs_check() WHERE item ~ '^(master|table)'}),
	'master metric ok, master narrow ok',
	'cqrs_check');

# What is refused.
error_of(
	q{SELECT cqrs_alter('metric', '{"replication": "always"}')},
	qr/option "replication" of master "metric" must be "origin"/,
	'triggers that are to fire in another mode');
error_of(
	q{SELECT cqrs_register(c) FROM show_chunks('metric') c LIMIT 1},
	qr/The table is a chunk of a hypertable/,
	'a chunk as a master');
error_of(
	q{CREATE TABLE child () INHERITS (metric)},
	qr/cannot change the inheritance of table "metric"/,
	'a child that is no chunk');
error_of(
	q{CREATE FOREIGN TABLE child () INHERITS (metric) SERVER none},
	qr/cannot change the inheritance of table "metric"/,
	'and a foreign one');
error_of(
	q{DO $$BEGIN EXECUTE (SELECT format('CREATE TABLE child () INHERITS (%s)', c)
		FROM show_chunks('metric') c LIMIT 1); END$$},
	qr/cannot change the inheritance of table "metric"/,
	'a child of a chunk');
query(
	q{CREATE TABLE odd (at timestamptz, id int, PRIMARY KEY (at, id));
	SELECT create_hypertable('odd', 'at');
	INSERT INTO odd VALUES ('2026-01-01', 1);
	DO $$BEGIN EXECUTE (SELECT format('CREATE TABLE child () INHERITS (%s)', c)
		FROM show_chunks('odd') c); END$$});
error_of(
	q{SELECT cqrs_register('odd')},
	qr/inherit/,
	'a hypertable whose chunk has a child');
error_of(
	q{DO $$BEGIN EXECUTE (SELECT format('DROP TRIGGER zz_cqrs_update ON %s', c)
		FROM show_chunks('metric') c LIMIT 1); END$$},
	qr/cannot drop, rename or replace trigger "zz_cqrs_update"/,
	'DROP TRIGGER of a chunk');
query(
	q{UPDATE _timescaledb_catalog.hypertable SET compression_state = 1
	WHERE table_name = 'metric'});
error_of(
	q{INSERT INTO metric VALUES ('2026-01-03', 1, 'c')},
	qr/hypertable "metric" has compression enabled/,
	'compression');
query(
	q{UPDATE _timescaledb_catalog.hypertable SET compression_state = 0
	WHERE table_name = 'metric'});

# Of a TimescaleDB that keeps its hypertables otherwise, changes are not missed.
query(
	q{ALTER TABLE _timescaledb_catalog.hypertable
	RENAME COLUMN table_name TO other});
error_of(
	q{INSERT INTO metric VALUES ('2026-01-03', 1, 'c')},
	qr/changes of table "_hyper_\w+" cannot be captured/,
	'chunks that are not recognized');
query(
	q{ALTER TABLE _timescaledb_catalog.hypertable
	RENAME COLUMN other TO table_name});

# A master that becomes a hypertable.
query(
	q{SELECT cqrs_pause();
	CREATE TABLE later (at timestamptz, dev int, v text, PRIMARY KEY (dev, at));
	SELECT cqrs_register('later', 'narrow2');
	INSERT INTO later VALUES ('2026-01-01', 1, 'a')});
error_of(
	q{SELECT create_hypertable('later', 'at', migrate_data => true)},
	qr/cannot move the rows of table "later" to chunks/,
	'a master with rows cannot become a hypertable');
is( query(
		q{SELECT string_agg(tableoid::regclass || ' ' || v, ', ') FROM later}
	),
	'later a',
	'and its rows stay');
is( query(
		q{DELETE FROM later; SELECT create_hypertable('later', 'at');
		INSERT INTO later VALUES ('2026-02-01', 2, 'b');
		UPDATE later SET v = 'c'; TRUNCATE later;
		SELECT string_agg(signal_type || ' ' || (instance_pk->0), ', ' ORDER BY id)
		FROM cqrs.outbox WHERE cqrs_id = 'narrow2'}
	) =~ /SAVE 2, SAVE 2, DELETE 2$/ ? 'captured' : 'missed',
	'captured',
	'one without rows can');

# Replicas.
query(
	q{CREATE TABLE follows (at timestamptz, dev int, v text, PRIMARY KEY (dev, at));
	SELECT cqrs_register_replica('follows');
	SELECT create_hypertable('follows', 'at');
	CREATE TABLE hyper (at timestamptz, dev int, v text, PRIMARY KEY (dev, at));
	SELECT create_hypertable('hyper', 'at')});
error_of(
	q{SELECT cqrs_register_replica('hyper')},
	qr/table "hyper" is a hypertable of TimescaleDB/,
	'a hypertable as a replica');
error_of(
	q{SELECT cqrs_apply(ROW('SAVE', 'follows',
		'{"at": "2026-01-01 00:00:00+00:00", "dev": 1, "v": "a",
		"cqrs_revision": 0, "cqrs_updated": "2026-01-01 00:00:00+00:00"}', NULL,
		'[1, "2026-01-01 00:00:00+00:00"]', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message)},
	qr/table "follows" is a hypertable of TimescaleDB/,
	'a replica that has become one');

# A dump.
query('DROP TABLE follows; DROP TABLE hyper');
my $file = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok(
	[ 'pg_dump', '-Fc', '-f', $file, $node->connstr('postgres') ], 'pg_dump');
query(q{CREATE DATABASE restored}, 'template1');
query(q{CREATE EXTENSION timescaledb; SELECT timescaledb_pre_restore()},
	'restored');
IPC::Run::run([ 'pg_restore', '-d', $node->connstr('restored'), $file ],
	'2>', \my $errors);
query(q{SELECT timescaledb_post_restore()}, 'restored');
is( query(
		q{SELECT string_agg(item || ' ' || detail, ', ' ORDER BY item)
		FROM cqrs_check() WHERE item ~ '^(master|table)'
		AND detail !~ 'publishes with the same cqrs_id'}, 'restored'),
	'',
	'the masters of a restored database');
is(query('SELECT count(*) FROM cqrs.master', 'restored'),
	3, 'which are all there');
is( query(
		q{UPDATE metric SET v = 'copy';
		INSERT INTO metric VALUES ('2026-08-01', 6, 'new');
		SELECT string_agg(signal_type || ' ' || cqrs_id || ' ' ||
			(instance_pk->0), ', ' ORDER BY id) FROM cqrs.outbox}, 'restored'),
	'SAVE metric 1, SAVE narrow 1, SAVE metric 6, SAVE narrow 6',
	'capture, in old chunks and new ones');

# The end.
query(
	q{SELECT cqrs_unregister('narrow'), cqrs_unregister('metric'),
	cqrs_unregister('narrow2')});
is( query(
		q{SELECT count(*) FROM pg_trigger
		WHERE tgname ~ 'cqrs' AND tgrelid NOT IN
			(SELECT oid FROM pg_class WHERE relnamespace = 'cqrs'::regnamespace)
		AND tgrelid <> 0}),
	0,
	'cqrs_unregister drops the triggers of chunks');
query('DROP EXTENSION timescaledb CASCADE');

stop_consumer($consumer);
done_testing();

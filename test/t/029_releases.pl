# Statements and columns that newer releases of PostgreSQL have: what they change is
# in the outbox, or they are refused.  What the server does not know is skipped.
use strict;
use warnings;

use CqrsTest;
use Test::More;

my $node = new_master('releases', undef, conf => "wal_level = logical\n");
my ($version) =
  $node->safe_psql('postgres', 'SHOW server_version_num') =~ /^(\d+)\d{4}$/;

sub query { return $node->safe_psql('postgres', $_[0]); }

sub error_of
{
	my ($sql) = @_;

	my (undef, undef, $error) = $node->psql('postgres', $sql);
	return $error;
}

# Signal, key and name of the messages of a master since they were asked for.
my $last = 0;

sub messages
{
	my ($cqrs_id) = @_;
	my $result = query(
		"SELECT string_agg(concat_ws(' ', signal_type, instance_pk,
			body::jsonb #>> '{instance_data,name}'), ', ' ORDER BY id)
		FROM cqrs.outbox WHERE cqrs_id = '$cqrs_id' AND id > $last");
	$last = query('SELECT max(id) FROM cqrs.outbox');
	return $result;
}

# Skips what the parser of this server does not know.
sub unless_unknown
{
	my ($statement, $test) = @_;

  SKIP:
	{
		skip "PostgreSQL $version does not know $statement"
		  if error_of($statement) =~ /syntax error/;
		$test->();
	}
	return;
}

query(
	q{CREATE TABLE item (id int PRIMARY KEY, name text);
	SELECT cqrs_register('item');
	INSERT INTO item VALUES (1, 'a'), (2, 'b')});
is(messages('item'), 'SAVE 1 a, SAVE 2 b', 'what is known');

SKIP:
{
	skip "PostgreSQL $version has no virtual generated columns"
	  if $version < 18;
	query(
		q{CREATE TABLE virtual (id int PRIMARY KEY, name text,
			shout text GENERATED ALWAYS AS (upper(name)) VIRTUAL)});
	like(
		error_of(q{SELECT cqrs_register('virtual')}),
		qr/column "shout" of table "virtual" is a virtual generated column\nHINT:  Make the column STORED/,
		'a virtual generated column is no field of a master');
	query(
		q{SELECT cqrs_register('virtual', fields => '{id,name}');
		INSERT INTO virtual VALUES (1, 'a');
		UPDATE virtual SET name = 'b' WHERE shout = 'A'});
	is(messages('virtual'), 'SAVE 1 a, SAVE 1 b', 'beside its fields it is');
	query(
		q{CREATE TABLE copy (id int PRIMARY KEY, name text,
			shout text GENERATED ALWAYS AS (upper(name)) VIRTUAL,
			cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
		SELECT cqrs_register_replica('copy');
		SELECT cqrs_apply(ROW('SAVE', 'copy', json_build_object('id', 1,
			'name', name, 'cqrs_revision', revision, 'cqrs_updated',
			'2026-01-01T00:00:00+00:00'), NULL, '1', NULL, 0, NULL, NULL, NULL,
			false)::cqrs.message)
		FROM (VALUES ('a', 0), ('b', 1)) v (name, revision)});
	is(query('SELECT shout FROM copy'), 'B', 'a replica may have one');
}

SKIP:
{
	skip "PostgreSQL $version has no keys WITHOUT OVERLAPS" if $version < 18;
	skip 'btree_gist is not installed'
	  if query(
		q{SELECT count(*) FROM pg_available_extensions WHERE name = 'btree_gist'}
	  ) == 0;
	query(
		q{CREATE EXTENSION btree_gist;
		CREATE TABLE price (item int, during daterange, name text,
			cqrs_revision int NOT NULL DEFAULT 0,
			cqrs_updated timestamptz NOT NULL DEFAULT now(),
			PRIMARY KEY (item, during WITHOUT OVERLAPS))});
	like(
		error_of(q{SELECT cqrs_register_replica('price')}),
		qr/the primary key of table "price" is not a B-tree index\nDETAIL:  .*WITHOUT OVERLAPS/,
		'a temporal key is not for replicas');
	query(
		q{SELECT cqrs_register('price');
		INSERT INTO price VALUES (1, '[2026-01-01,2027-01-01)', 'a')});
	is( messages('price'),
		'SAVE [1, "[2026-01-01,2027-01-01)"] a',
		'a master may have a temporal key');
	unless_unknown(
		q{UPDATE price FOR PORTION OF during FROM '2026-03-01' TO '2026-04-01'
			SET name = 'b'},
		sub {
			is( messages('price'),
				'DELETE [1, "[2026-01-01,2027-01-01)"], '
				  . 'SAVE [1, "[2026-03-01,2026-04-01)"] b, '
				  . 'SAVE [1, "[2026-01-01,2026-03-01)"] a, '
				  . 'SAVE [1, "[2026-04-01,2027-01-01)"] a',
				'UPDATE FOR PORTION OF');
		});
	unless_unknown(
		q{DELETE FROM price FOR PORTION OF during FROM '2026-03-01' TO '2026-04-01'},
		sub {
			is( messages('price'),
				'DELETE [1, "[2026-03-01,2026-04-01)"]',
				'DELETE FOR PORTION OF');
		});
}

unless_unknown(
	q{INSERT INTO item VALUES (1, 'c') ON CONFLICT (id) DO SELECT FOR UPDATE RETURNING id},
	sub {
		query(
			q{INSERT INTO item VALUES (1, 'c'), (3, 'c')
				ON CONFLICT (id) DO SELECT RETURNING id});
		is(messages('item'), 'SAVE 3 c', 'ON CONFLICT DO SELECT');
	});

query(
	q{CREATE TABLE part (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
	CREATE TABLE part_0 PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (10) TO (20);
	SELECT cqrs_register('part');
	INSERT INTO part VALUES (1, 'a'), (11, 'a')});
messages('part');
unless_unknown(
	'ALTER TABLE part MERGE PARTITIONS (part_0, part_1) INTO part_all',
	sub {
		query(
			q{UPDATE part SET name = 'b'; INSERT INTO part VALUES (2, 'b')});
		is( messages('part'),
			'SAVE 1 b, SAVE 11 b, SAVE 2 b',
			'MERGE PARTITIONS');
		query(
			q{ALTER TABLE part SPLIT PARTITION part_all INTO (
				PARTITION part_0 FOR VALUES FROM (0) TO (5),
				PARTITION part_1 FOR VALUES FROM (5) TO (20));
			UPDATE part SET name = 'c'; DELETE FROM part WHERE id = 2});
		is( messages('part'),
			'SAVE 1 c, SAVE 2 c, SAVE 11 c, DELETE 2',
			'SPLIT PARTITION');
	});

# While others write: each change of a row is one message, and none is made by the
# command.
unless_unknown(
	'REPACK item',
	sub {
		is(messages('item'), '', 'REPACK changes no row');
		query(
			q{INSERT INTO item SELECT i, 'd' FROM generate_series(100, 5000) i}
		);
		my $before = query('SELECT sum(cqrs_revision) FROM item');
		messages('item');
		my $start   = $last;
		my $writers = start_pgbench($node, 'postgres', <<'END', '-c', 2);
\set id random(100, 5000)
UPDATE item SET name = name || 'x' WHERE id = :id;
END
		$node->poll_query_until('postgres',
			"SELECT max(id) > $start FROM cqrs.outbox")
		  or BAIL_OUT('nobody writes');
		query('REPACK (CONCURRENTLY) item') foreach 1 .. 3;
		stop_pgbench($node, $writers);
		is( query(
				"SELECT count(*) - (SELECT sum(cqrs_revision) - $before FROM item)
				FROM cqrs.outbox WHERE cqrs_id = 'item' AND id > $start"),
			0,
			'REPACK (CONCURRENTLY): a message for each change');
		is( query(
				q{SELECT count(*) FROM item
				JOIN (SELECT DISTINCT ON (instance_pk) instance_pk,
						body::jsonb #>> '{instance_data,name}' AS name
					FROM cqrs.outbox WHERE cqrs_id = 'item'
					ORDER BY instance_pk, id DESC) m
				ON m.instance_pk::text = item.id::text AND m.name <> item.name}),
			0,
			'the last message of each row has its values');
	});

$node->stop;
done_testing();

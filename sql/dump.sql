-- cqrs_bulk_dump into a file, cqrs_sync_all as far as it needs no publisher.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 4) i;
SELECT cqrs_register('t');
SELECT test_skip();
SELECT current_setting('data_directory') || '/dump_test' AS file \gset

-- The same as the rows, without a line break at the end.
SELECT cqrs_bulk_dump('t', :'file');
SELECT test_undated(pg_read_file(:'file'));
SELECT pg_read_file(:'file') = string_agg(d, E'\n') FROM cqrs_bulk_dump('t') d;

-- An existing file stays, unless it may be overwritten; nothing else is left.
DELETE FROM t WHERE id > 1;
\set VERBOSITY sqlstate
SELECT cqrs_bulk_dump('t', :'file');
SELECT cqrs_bulk_dump('t', :'file', NULL);
\set VERBOSITY default
SELECT length(pg_read_file(:'file')) > 150;
SELECT cqrs_bulk_dump('t', :'file', true);
SELECT test_undated(pg_read_file(:'file'));
SELECT cqrs_bulk_dump('t', :'file' || '_new', true);
SELECT test_error('SELECT cqrs_bulk_dump(NULL)');
SELECT test_error('SELECT cqrs_bulk_dump(''t'', NULL)');
SELECT test_error('SELECT cqrs_bulk_dump(NULL, ''/tmp/cqrs_nothing'')');
DELETE FROM t;
SELECT cqrs_bulk_dump('t', :'file' || '_empty');
SELECT pg_read_file(:'file' || '_empty');
SELECT f FROM pg_ls_dir(current_setting('data_directory')) f WHERE f LIKE 'dump\_test%' ORDER BY f;

-- What fails leaves nothing.
INSERT INTO t VALUES (1, 'one'), (2, 'two');
CREATE FUNCTION fails(int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE 'no row %', $1; END$$;
CREATE ROLE regress_dump;
GRANT SELECT ON t TO regress_dump;
CREATE POLICY p ON t USING (fails(id) > 0);
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
SET ROLE regress_dump;
SELECT test_error($$SELECT cqrs_bulk_dump('t', '/tmp/cqrs_nothing')$$);
RESET ROLE;
GRANT pg_write_server_files TO regress_dump;
SET ROLE regress_dump;
SELECT test_error(format('SELECT cqrs_bulk_dump(''t'', %L)', :'file' || '_failed'));
SELECT test_error(format('SELECT cqrs_bulk_dump(''t'', %L, true)', :'file' || '_failed'));
RESET ROLE;
SELECT test_error('SELECT cqrs_bulk_dump(''t'', ''dump_test_relative'')');
SELECT test_error('SELECT cqrs_bulk_dump(''t'', ''/dev/null'', true)');
SELECT test_error('SELECT cqrs_bulk_dump(''t'', ''/'', true)');
SELECT test_error('SELECT cqrs_bulk_dump(''nope'', ''/nonexistent/dump'')');
SELECT test_error('SELECT cqrs_bulk_dump(''t'', ''/nonexistent/dump'')');
\set VERBOSITY sqlstate
SELECT cqrs_bulk_dump('t', '/nonexistent/dump', true);
\set VERBOSITY default
SELECT f FROM pg_ls_dir(current_setting('data_directory')) f WHERE f LIKE 'dump\_test%' ORDER BY f;
ALTER TABLE t DISABLE ROW LEVEL SECURITY;
DROP POLICY p ON t;
DROP FUNCTION fails(int);

-- All rows in two batches; the key on which to go on.
TRUNCATE t;
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 5) i;
SELECT test_skip();
CALL cqrs_sync_all('t', batch_size => 3);
SELECT count(DISTINCT id / 100000) FROM cqrs.outbox
	WHERE id > (SELECT id FROM test_mark);
CALL cqrs_sync_all('t', 'id <> 4', 'replica', after => '3');
SELECT test_messages();
-- A key of two columns, in an order of its own.
CREATE TABLE pair (a text COLLATE "C", b bigint, v text, PRIMARY KEY (b, a));
INSERT INTO pair SELECT 'k' || i % 3, i / 3, 'v' FROM generate_series(1, 8) i;
SELECT cqrs_register('pair');
CALL cqrs_sync_all('pair', batch_size => 5);
SELECT test_messages();
CALL cqrs_sync_all('pair', 'true -- comment', after => '[2, "k0"]');
SELECT test_messages();
-- A type whose operators are not in the search_path.
CREATE SCHEMA types;
CREATE EXTENSION citext SCHEMA types;
CREATE TABLE insensitive (a types.citext, b int, v int, PRIMARY KEY (a, b));
INSERT INTO insensitive VALUES ('a', 1), ('B', 1), ('B', 2), ('c', 1), ('D', 1);
SELECT cqrs_register('insensitive', fields => '{a,b}');
SELECT test_skip();
CALL cqrs_sync_all('insensitive', batch_size => 3);
SELECT test_messages();
CALL cqrs_sync_all('insensitive', after => '["b", 1]');
SELECT test_messages();
SELECT cqrs_deleted_diff_master(ARRAY['insensitive,2026-11-23 06:01:02+00:00',
	'[["A",1],["A",2]]']);
DROP TABLE insensitive;
DROP SCHEMA types CASCADE;
CALL cqrs_sync_all('pair', 'false');
SELECT cqrs_alter('pair', '{"produce": false}');
CALL cqrs_sync_all('pair');
SELECT test_messages();
SELECT count(*) FROM cqrs.progress_sync;

CALL cqrs_sync_all(NULL);
CALL cqrs_sync_all('nope');
CALL cqrs_sync_all('t', 'id =');
CALL cqrs_sync_all('t', 'true) OR (true');
CALL cqrs_sync_all('t', queue => '');
CALL cqrs_sync_all('t', batch_size => 0);
CALL cqrs_sync_all('t', batch_size => NULL);
CALL cqrs_sync_all('t', after => '[1]');
CALL cqrs_sync_all('t', after => 'null');
CALL cqrs_sync_all('t', after => '"x"');
CALL cqrs_sync_all('pair', after => '1');
BEGIN;
CALL cqrs_sync_all('t');
ROLLBACK;
SET default_transaction_read_only = on;
CALL cqrs_sync_all('t');
RESET default_transaction_read_only;
SET ROLE regress_dump;
CALL cqrs_sync_all('t');
RESET ROLE;
SELECT test_messages();
-- A procedure may call it, and go on.
CREATE PROCEDURE outer_one() LANGUAGE plpgsql AS $$
BEGIN
	CALL cqrs_sync_all('t', 'id = 1');
	CALL cqrs_sync_all('t', 'id = 2');
END $$;
CALL outer_one();
SELECT test_messages();
DROP PROCEDURE outer_one();
DROP TABLE t, pair;
REVOKE pg_write_server_files FROM regress_dump;
DROP ROLE regress_dump;

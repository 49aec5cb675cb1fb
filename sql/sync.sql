-- cqrs_sync and cqrs_bulk_dump.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 4) i;
SELECT cqrs_register('t');
SELECT cqrs_register('t', 'narrow', fields => '{id}');
SELECT test_skip();

-- Forms.
SELECT cqrs_sync('t');
SELECT cqrs_sync('t', 'id > 2 AND t.v <> ''v4''');
SELECT cqrs_sync('narrow', 'id = 1 -- one', 'replica');
SELECT cqrs_sync('t', 'id > 100');
SELECT cqrs_sync('t', 'NULL');
SELECT id, cqrs_sync(t) FROM t WHERE id = 4;
SELECT id, cqrs_sync(t, 'replica') FROM t WHERE id = 4;
SELECT cqrs_sync(NULL::t);
SELECT cqrs_sync(ROW(99, 'x', 0, now())::t);
SELECT test_messages();
SELECT id, cqrs_revision FROM t ORDER BY 1;

-- The state at commit, together with changes.
BEGIN;
SELECT cqrs_sync('t', 'id < 3');
UPDATE t SET v = 'later' WHERE id = 1;
DELETE FROM t WHERE id = 2;
COMMIT;
SELECT test_messages();
BEGIN;
SELECT cqrs_sync('t');
ROLLBACK;
SELECT test_messages();

-- What is refused.
SELECT test_error('SELECT cqrs_sync(NULL::text)');
SELECT test_error('SELECT cqrs_sync(''nope''::text)');
SELECT test_error('SELECT cqrs_sync(''t'', ''id'')');
SELECT test_error('SELECT cqrs_sync(''t'', '''')');
SELECT test_error('SELECT cqrs_sync(''t'', ''nope = 1'')');
SELECT test_error('SELECT cqrs_sync(''t'', ''id ='')');
SELECT test_error('SELECT cqrs_sync(''t'', ''true) OR (true'')');
SELECT test_error('SELECT cqrs_sync(''t'', ''true; DROP TABLE t'')');
SELECT test_error('SELECT cqrs_sync(''t'', ''true, false'')');
SELECT test_error('SELECT cqrs_sync(''t'', ''true FROM t'')');
SELECT test_error('SELECT cqrs_sync(''t'', ''true UNION SELECT true'')');
SELECT test_error('SELECT cqrs_sync(''t'', ''true LIMIT 1'')');
SELECT test_error('SELECT cqrs_sync(''t'', ''true AS x'')');
SELECT test_error('SELECT cqrs_sync(''t'', ''/*'')');
SELECT test_error('SELECT cqrs_sync(''t'', NULL, '''')');
SELECT test_error('SELECT cqrs_sync(''t'', NULL, repeat(''q'', 129))');
SELECT test_error('SELECT cqrs_sync(ROW(1, 2))');
SELECT test_error('SELECT cqrs_sync(c) FROM pg_class c LIMIT 1');
SELECT test_error('SELECT cqrs_bulk_dump(''nope'')');
BEGIN READ ONLY;
SELECT cqrs_sync('t');
ROLLBACK;
SELECT test_messages();

-- Privileges and row security.
CREATE ROLE regress_sync;
SET ROLE regress_sync;
SELECT test_error('SELECT cqrs_sync(''t''::text)');
SELECT test_error('SELECT cqrs_bulk_dump(''t'')');
RESET ROLE;
GRANT SELECT ON t TO regress_sync;
SET ROLE regress_sync;
SELECT test_error('SELECT cqrs_sync(''t''::text)');
SELECT test_error('SELECT cqrs_sync(t) FROM t');
SELECT test_undated(cqrs_bulk_dump('t'));
RESET ROLE;
GRANT UPDATE ON t TO regress_sync;
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON t USING (id > 3);
SET ROLE regress_sync;
SELECT cqrs_sync('t');
SELECT test_error('SELECT cqrs_sync(t) FROM t');
SELECT test_error('SELECT cqrs_sync(ROW(1, ''x'', 0, now())::t)');
SELECT test_undated(cqrs_bulk_dump('t'));
RESET ROLE;
SELECT test_messages();

-- A dump; one that is not read to its end; a master that produces nothing.
SELECT test_undated(cqrs_bulk_dump('narrow'));
SELECT cqrs_bulk_dump('t') LIMIT 1;
SELECT test_undated(d) FROM cqrs_bulk_dump('t') d LIMIT 2;
SELECT cqrs_alter('t', '{"produce": false}');
SELECT cqrs_sync('t');
SELECT id, cqrs_sync(t) FROM t WHERE id = 1;
SELECT count(*) FROM cqrs_bulk_dump('t');
SELECT test_messages();
DROP TABLE t;
DROP ROLE regress_sync;

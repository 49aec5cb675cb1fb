-- Ways to write, apart from those in capture.sql: columns that PostgreSQL
-- fills, joins, keys of all sorts, cascades, locks, blocks, cursors, volumes.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;

-- Identity, generated and default columns.
CREATE TABLE i (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int DEFAULT 5,
	double int GENERATED ALWAYS AS (v * 2) STORED, stamp serial);
SELECT cqrs_register('i', tracked_fields => '{double}');
SELECT test_skip();
INSERT INTO i DEFAULT VALUES;
INSERT INTO i (id, v) OVERRIDING SYSTEM VALUE VALUES (10, DEFAULT), (11, 3);
UPDATE i SET v = v + 1, id = DEFAULT WHERE id = 10;
UPDATE i SET v = v + 1 WHERE id = 11 RETURNING double;
COPY i (v) FROM stdin WHERE v <> 7;
7
8
\.
SELECT test_messages();
DROP TABLE i;

-- Statements that join, and read what they write.
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT cqrs_register('t');
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
SELECT test_skip();
INSERT INTO t SELECT id + 10, v || '''' FROM t;
UPDATE t SET v = t.v || s.v FROM t s WHERE s.id = t.id + 10;
UPDATE t SET v = s.v FROM (VALUES (1, 'x'), (1, 'x')) s (id, v) WHERE s.id = t.id;
DELETE FROM t USING t s WHERE t.id = s.id + 10 AND s.id < 3;
SELECT test_messages() ORDER BY 1;
-- Data-modifying CTEs see one snapshot; the second change of a row is not made.
WITH a AS (UPDATE t SET v = 'cte' WHERE id = 1 RETURNING *),
	b AS (UPDATE t SET v = 'other' WHERE id = 1 RETURNING *),
	c AS (INSERT INTO t SELECT 20, v FROM a RETURNING *),
	d AS (DELETE FROM t WHERE id IN (2, 20) RETURNING *)
	SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b), (SELECT count(*) FROM d);
SELECT test_messages() ORDER BY 1;
-- Several commands in one message of the protocol are one transaction.
INSERT INTO t VALUES (30, 'first') \; UPDATE t SET v = 'second' WHERE id = 30 \; DELETE FROM t WHERE id = 20;
SELECT test_messages();
-- Upserts of one row, new and old, in one transaction.
BEGIN;
INSERT INTO t VALUES (31, 'a') ON CONFLICT (id) DO UPDATE SET v = excluded.v || '!';
INSERT INTO t VALUES (31, 'b') ON CONFLICT (id) DO UPDATE SET v = excluded.v || '!';
INSERT INTO t VALUES (30, 'b') ON CONFLICT (id) DO UPDATE SET v = excluded.v || '!' WHERE t.v <> 'second';
INSERT INTO t VALUES (3, 'c') ON CONFLICT (id) DO UPDATE SET id = 33;
COMMIT;
SELECT test_messages();

-- The same key over and over.
TRUNCATE t;
INSERT INTO t VALUES (1, 'old');
SELECT test_skip();
BEGIN;
DELETE FROM t;
INSERT INTO t VALUES (1, 'second');
DELETE FROM t;
INSERT INTO t VALUES (1, 'third');
UPDATE t SET v = 'last';
COMMIT;
SELECT test_messages();
BEGIN;
DELETE FROM t;
INSERT INTO t VALUES (1, 'unborn');
DELETE FROM t;
COMMIT;
BEGIN;
INSERT INTO t VALUES (1, 'unborn');
DELETE FROM t;
INSERT INTO t VALUES (1, 'born');
COMMIT;
SELECT test_messages();
BEGIN;
INSERT INTO t VALUES (2, 'two');
UPDATE t SET id = 3 WHERE id = 1;
UPDATE t SET id = 1 WHERE id = 2;
UPDATE t SET id = 2 WHERE id = 3;
COMMIT;
SELECT test_messages();
DROP TABLE t;

-- Updates of keys of several types; 1.0 and 1.00 are equal, but not the same.
CREATE DOMAIN code AS text;
CREATE TYPE size AS ENUM ('s', 'm');
CREATE TABLE k1 (b date, a uuid, v int, PRIMARY KEY (a, b));
CREATE TABLE k2 (id numeric PRIMARY KEY);
CREATE TABLE k3 (id code PRIMARY KEY);
CREATE TABLE k4 (id size PRIMARY KEY);
CREATE TABLE k5 (id timestamptz PRIMARY KEY);
CREATE TABLE k6 (id bytea PRIMARY KEY);
CREATE TABLE k7 (id int[] PRIMARY KEY);
CREATE TABLE k8 (id inet PRIMARY KEY);
CREATE TABLE k9 (id bigint PRIMARY KEY, v int);
SELECT cqrs_register(k) FROM unnest('{k1,k2,k3,k4,k5,k6,k7,k8,k9}'::regclass[]) k;
INSERT INTO k1 VALUES ('2024-02-29', '11111111-2222-3333-4444-555555555555', 0);
INSERT INTO k2 VALUES (1.0);
INSERT INTO k3 VALUES (U&'"\00E9\000A');
INSERT INTO k4 VALUES ('s');
INSERT INTO k5 VALUES ('2024-02-29 01:02:03.5+00');
INSERT INTO k6 VALUES ('\x00ff');
INSERT INTO k7 VALUES ('{1,2}');
INSERT INTO k8 VALUES ('10.0.0.1');
INSERT INTO k9 VALUES (-9223372036854775808, 0);
SELECT test_messages();
UPDATE k1 SET b = 'infinity';
UPDATE k1 SET v = 1;
UPDATE k2 SET id = 1.00;
UPDATE k3 SET id = '';
UPDATE k4 SET id = 'm';
UPDATE k5 SET id = '2024-02-29 03:02:03.5+02';
UPDATE k6 SET id = '\x';
UPDATE k7 SET id = '{}';
UPDATE k8 SET id = '10.0.0.0/8';
UPDATE k9 SET id = 9223372036854775807;
SELECT test_messages();
DELETE FROM k1;
DELETE FROM k7;
SELECT test_messages();
DROP TABLE k1, k2, k3, k4, k5, k6, k7, k8, k9;
DROP TYPE size;
DROP DOMAIN code;

-- Foreign keys: SET NULL, SET DEFAULT, chains, a tree in one table.
CREATE TABLE p (id int PRIMARY KEY);
CREATE TABLE c (id int PRIMARY KEY,
	a int REFERENCES p ON DELETE SET NULL ON UPDATE SET NULL,
	b int DEFAULT 0 REFERENCES p ON DELETE SET DEFAULT ON UPDATE CASCADE,
	d int REFERENCES p ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE g (c_id int PRIMARY KEY REFERENCES c ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE);
SELECT cqrs_register(r) FROM unnest('{p,c,g,tree}'::regclass[]) r;
INSERT INTO p VALUES (0), (1), (2), (3);
INSERT INTO c VALUES (1, 1, 1, 2), (2, 2, 2, 2), (3, 3, 3, 3);
INSERT INTO g VALUES (1), (2), (3);
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 1);
SELECT test_skip();
DELETE FROM p WHERE id = 1;
SELECT test_messages() ORDER BY 1;
UPDATE p SET id = 20 WHERE id = 2;
UPDATE p SET id = 30 WHERE id = 3 AND false;
UPDATE c SET d = 3 WHERE d = 2;
SELECT test_messages() ORDER BY 1;
BEGIN;
UPDATE p SET id = 30 WHERE id = 3;
INSERT INTO p VALUES (3);
COMMIT;
SELECT test_messages() ORDER BY 1;
UPDATE c SET id = id + 10 WHERE id = 3;
SELECT test_messages() ORDER BY 1;
DELETE FROM p WHERE id = 3;
SELECT test_messages() ORDER BY 1;
UPDATE tree SET id = 10 WHERE id = 1;
SELECT test_messages() ORDER BY 1;
DELETE FROM tree WHERE id = 10;
SELECT test_messages() ORDER BY 1;
DROP TABLE p, c, g, tree;

-- Large values that an update leaves alone, and previous values of them.
CREATE TABLE l (id int PRIMARY KEY, v int, body text, packed text);
ALTER TABLE l ALTER body SET STORAGE EXTERNAL;
SELECT cqrs_register('l', tracked_fields => '{body,packed}');
SELECT test_skip();
INSERT INTO l VALUES (1, 0, repeat('x', 9000), repeat('y', 90000));
UPDATE l SET v = 1;
UPDATE l SET body = repeat('z', 9000);
UPDATE l SET packed = 'short';
UPDATE l SET packed = packed || '', body = body || '';
SELECT regexp_replace(test_messages(), '([xyz])\1{200,}', '\1...', 'g');
DROP TABLE l;

-- Locks of one's own before a change, also across savepoints: the row's xmax is
-- then a multixact.
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT cqrs_register('t');
INSERT INTO t SELECT n, 'old' FROM generate_series(1, 6) n;
SELECT test_skip();
BEGIN;
SELECT id FROM t WHERE id = 1 FOR KEY SHARE;
SELECT id FROM t WHERE id = 2 FOR SHARE;
SELECT id FROM t WHERE id = 3 FOR NO KEY UPDATE;
SELECT id FROM t WHERE id IN (4, 5) FOR UPDATE;
SAVEPOINT a;
UPDATE t SET v = 'new' WHERE id < 5;
SAVEPOINT b;
SELECT id FROM t WHERE id IN (1, 6) FOR UPDATE;
UPDATE t SET v = 'undone' WHERE id IN (1, 6);
DELETE FROM t WHERE id = 2;
ROLLBACK TO b;
SELECT id FROM t WHERE id = 6 FOR KEY SHARE;
UPDATE t SET id = 30 WHERE id = 3;
DELETE FROM t WHERE id = 4;
COMMIT;
SELECT test_messages();

-- Blocks with exceptions, nested; procedures that commit; cursors.
TRUNCATE t;
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
SELECT test_skip();
DO $$
BEGIN
	UPDATE t SET v = 'outer' WHERE id = 1;
	BEGIN
		UPDATE t SET v = 'inner' WHERE id = 2;
		BEGIN
			UPDATE t SET v = 'lost' WHERE id IN (1, 2, 3);
			INSERT INTO t VALUES (1, 'duplicate');
		EXCEPTION WHEN unique_violation THEN
			INSERT INTO t VALUES (4, 'innermost handler');
		END;
	EXCEPTION WHEN OTHERS THEN
		INSERT INTO t VALUES (5, 'not reached');
	END;
	BEGIN
		DELETE FROM t;
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		NULL;
	END;
	FOR n IN 1 .. 3 LOOP
		BEGIN
			INSERT INTO t VALUES (10 + n, 'loop');
			IF n = 2 THEN
				RAISE division_by_zero;
			END IF;
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END LOOP;
END
$$;
SELECT test_messages();
CREATE PROCEDURE batches() LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT id FROM t WHERE id < 4 ORDER BY id LOOP
		UPDATE t SET v = 'first' WHERE id = r.id;
		UPDATE t SET v = 'batch ' || r.id WHERE id = r.id;
		IF r.id = 2 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
	UPDATE t SET v = 'rest' WHERE id = 4;
END
$$;
CALL batches();
SELECT test_messages();
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM t WHERE id < 4 ORDER BY id FOR UPDATE;
FETCH c;
UPDATE t SET v = 'cursor' WHERE CURRENT OF c;
FETCH c;
DELETE FROM t WHERE CURRENT OF c;
FETCH c;
UPDATE t SET v = 'undone' WHERE id = 3;
SAVEPOINT a;
UPDATE t SET v = 'undone, too' WHERE id = 3;
ROLLBACK TO a;
COMMIT;
SELECT test_messages();

-- Isolation levels, and transactions that only read.
BEGIN ISOLATION LEVEL SERIALIZABLE;
UPDATE t SET v = 'serializable' WHERE id = 1;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
UPDATE t SET v = 'repeatable' WHERE id = 1;
UPDATE t SET v = 'repeatable read' WHERE id = 1;
COMMIT AND CHAIN;
UPDATE t SET v = 'chained' WHERE id = 1;
ROLLBACK AND CHAIN;
UPDATE t SET v = 'chained again' WHERE id = 1;
COMMIT;
BEGIN READ ONLY;
SELECT count(*) FROM t;
COMMIT;
SELECT test_messages();

-- Prepared here, committed in another session; savepoints inside.
BEGIN;
UPDATE t SET v = 'prepared' WHERE id = 1;
SAVEPOINT a;
UPDATE t SET v = 'undone' WHERE id IN (1, 3);
ROLLBACK TO a;
SAVEPOINT b;
DELETE FROM t WHERE id = 3;
INSERT INTO t VALUES (50, 'prepared');
RELEASE b;
PREPARE TRANSACTION 'paths one';
BEGIN;
DELETE FROM t WHERE id = 4;
PREPARE TRANSACTION 'paths two';
SELECT test_messages();
\c
SET client_min_messages = error;
ROLLBACK PREPARED 'paths two';
UPDATE t SET v = 'between' WHERE id = 4;
COMMIT PREPARED 'paths one';
SELECT test_messages() ORDER BY 1;

-- The table is moved between transactions.
CLUSTER t USING t_pkey;
UPDATE t SET v = 'clustered' WHERE id = 1;
VACUUM FULL t;
UPDATE t SET v = 'vacuumed' WHERE id = 1;
VACUUM (FREEZE) t;
UPDATE t SET v = 'frozen' WHERE id = 1;
REINDEX TABLE t;
DELETE FROM t WHERE id = 1;
SELECT test_messages();

-- Many rows, one message each.
TRUNCATE t;
SELECT test_skip();
BEGIN;
INSERT INTO t SELECT n, 'new' FROM generate_series(1, 100000) n;
UPDATE t SET v = 'updated';
DELETE FROM t WHERE id % 10 = 0;
COMMIT;
CREATE VIEW sent AS SELECT signal_type, count(*), count(DISTINCT instance_pk) AS keys,
		min(body::json -> 'instance_data' ->> 'cqrs_revision') AS low,
		max(body::json -> 'instance_data' ->> 'cqrs_revision') AS high,
		count(*) FILTER (WHERE body::json -> 'instance_data' ->> 'v' = 'updated') AS updated
	FROM cqrs.outbox WHERE id > (SELECT id FROM test_mark) GROUP BY 1;
SELECT * FROM sent;
SELECT test_skip();
BEGIN;
UPDATE t SET v = 'again';
SAVEPOINT a;
DELETE FROM t;
ROLLBACK TO a;
UPDATE t SET v = 'updated' WHERE id % 2 = 0;
DELETE FROM t WHERE id % 10 = 1;
COMMIT;
SELECT * FROM sent ORDER BY 1;
SELECT test_skip();
DROP VIEW sent;
DROP TABLE t;
DROP PROCEDURE batches;

-- Which messages a transaction makes, whatever way it writes.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT cqrs_register('t');
SELECT test_skip();

-- Single commands.
INSERT INTO t VALUES (1, 'a'), (2, 'b');
UPDATE t SET v = 'c' WHERE id = 1;
UPDATE t SET v = v WHERE id = 1;
DELETE FROM t WHERE id = 1;
COPY t (id, v) FROM stdin;
3	copied
4	too
\.
INSERT INTO t VALUES (3, 'x') ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (3, 'y'), (5, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
SELECT test_messages();
DELETE FROM t WHERE id = 3;
UPDATE t SET v = 'merged' WHERE id = 4;
INSERT INTO t VALUES (6, 'merged');
SELECT test_messages() ORDER BY 1;
WITH gone AS (DELETE FROM t WHERE id = 4 RETURNING *),
	changed AS (UPDATE t SET v = 'cte' WHERE id = 5)
	INSERT INTO t SELECT id + 3, v FROM gone;
SELECT test_messages() ORDER BY 1;

-- One message a row and transaction, with the final state; the revision grows
-- by one.
BEGIN;
INSERT INTO t VALUES (10, 'a');
UPDATE t SET v = 'b' WHERE id = 10;
UPDATE t SET v = v || '!' WHERE id IN (2, 10);
UPDATE t SET v = v || '!' WHERE id IN (2, 10);
INSERT INTO t VALUES (11, 'gone');
DELETE FROM t WHERE id = 11;
UPDATE t SET v = 'x' WHERE id = 5;
DELETE FROM t WHERE id = 5;
COMMIT;
SELECT test_messages();
BEGIN;
DELETE FROM t WHERE id = 2;
INSERT INTO t VALUES (2, 'again');
COMMIT;
SELECT test_messages();
-- An application may raise the revision, and not lower it.
UPDATE t SET cqrs_revision = cqrs_revision + 5 WHERE id = 2;
UPDATE t SET cqrs_revision = 0 WHERE id = 2;
UPDATE t SET cqrs_revision = NULL WHERE id = 2;
BEGIN;
UPDATE t SET cqrs_revision = 50 WHERE id = 2;
UPDATE t SET cqrs_revision = 0 WHERE id = 2;
COMMIT;
UPDATE t SET cqrs_revision = 2147483647 WHERE id = 2;
UPDATE t SET v = 'overflow' WHERE id = 2;
DELETE FROM t WHERE id = 2;
SELECT test_messages();

-- Keys that change.
TRUNCATE t;
SELECT test_skip();
INSERT INTO t VALUES (1, 'one'), (2, 'two');
UPDATE t SET id = 3 WHERE id = 1;
BEGIN;
UPDATE t SET id = 4 WHERE id = 2;
UPDATE t SET id = 2 WHERE id = 4;
COMMIT;
BEGIN;
INSERT INTO t VALUES (20, 'born');
UPDATE t SET id = 21 WHERE id = 20;
COMMIT;
BEGIN;
UPDATE t SET id = 22 WHERE id = 21;
INSERT INTO t VALUES (21, 'other');
DELETE FROM t WHERE id = 22;
COMMIT;
SELECT test_messages();
CREATE TABLE swap (id int PRIMARY KEY DEFERRABLE, v text);
SELECT cqrs_register('swap');
INSERT INTO swap VALUES (1, 'one'), (2, 'two');
UPDATE swap SET id = 3 - id;
SELECT test_messages();
DROP TABLE swap;

-- Savepoints.
BEGIN;
SAVEPOINT a;
INSERT INTO t VALUES (30, 'a');
ROLLBACK TO a;
INSERT INTO t VALUES (31, 'b');
SAVEPOINT b;
UPDATE t SET v = 'inner' WHERE id IN (2, 31);
ROLLBACK TO b;
SAVEPOINT c;
UPDATE t SET v = 'kept' WHERE id = 3;
SAVEPOINT d;
DELETE FROM t WHERE id IN (3, 31);
ROLLBACK TO d;
RELEASE c;
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE t SET v = 'outer' WHERE id = 2;
SAVEPOINT a;
UPDATE t SET v = 'inner' WHERE id = 2;
ROLLBACK TO a;
SAVEPOINT b;
DELETE FROM t WHERE id = 31;
RELEASE b;
ROLLBACK TO a;
DELETE FROM t WHERE id = 31;
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE t SET v = 'never' WHERE id = 2;
ROLLBACK;
DO $$
BEGIN
	UPDATE t SET v = 'plpgsql' WHERE id = 2;
	BEGIN
		INSERT INTO t VALUES (40, 'lost');
		UPDATE t SET v = 'lost' WHERE id = 3;
		RAISE EXCEPTION 'x';
	EXCEPTION WHEN raise_exception THEN
		INSERT INTO t VALUES (41, 'handler');
	END;
END
$$;
DO $$
BEGIN
	INSERT INTO t VALUES (42, 'first');
	COMMIT;
	INSERT INTO t VALUES (43, 'second');
	ROLLBACK;
	INSERT INTO t VALUES (44, 'third');
END
$$;
SELECT test_messages();

-- Cascades of foreign keys.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY,
	parent_id int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
SELECT cqrs_register('parent'), cqrs_register('child');
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (1, 1), (2, 1);
SELECT test_skip();
DELETE FROM parent WHERE id = 1;
SELECT test_messages() ORDER BY 1;
INSERT INTO child VALUES (3, 2);
UPDATE parent SET id = 5;
SELECT test_messages();
TRUNCATE parent CASCADE;
SELECT test_messages() ORDER BY 1;
DROP TABLE parent, child;

-- Triggers of the user's, before and after ours, and deferred.
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.v = 'cancel' THEN
		RETURN NULL;
	END IF;
	NEW.v := NEW.v || ' ' || TG_NAME;
	RETURN NEW;
END
$$;
TRUNCATE t;
INSERT INTO t VALUES (1, 'a'), (2, 'b');
SELECT test_skip();
CREATE TRIGGER aaa BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION change();
UPDATE t SET v = 'x' WHERE id = 1;
UPDATE t SET v = 'cancel' WHERE id = 1;
SELECT test_messages();
ALTER TRIGGER aaa ON t RENAME TO zzz_late;
UPDATE t SET v = 'y' WHERE id = 1;
UPDATE t SET v = 'cancel' WHERE id = 1;
BEGIN;
UPDATE t SET v = 'cancel' WHERE id = 2;
UPDATE t SET v = 'z' WHERE id = 2;
UPDATE t SET v = 'cancel' WHERE id = 2;
COMMIT;
SELECT test_messages();
DROP TRIGGER zzz_late ON t;
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE t SET v = 'deferred' WHERE id = 2 AND v <> 'deferred';
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION late();
UPDATE t SET v = 'now' WHERE id = 1;
SELECT test_messages();
DROP TRIGGER late ON t;

-- TRUNCATE.
INSERT INTO t VALUES (3, 'c');
SELECT test_skip();
BEGIN;
INSERT INTO t VALUES (4, 'unborn');
UPDATE t SET v = 'x' WHERE id = 1;
DELETE FROM t WHERE id = 2;
TRUNCATE t;
INSERT INTO t VALUES (1, 'again');
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE t SET v = 'kept' WHERE id = 1;
SAVEPOINT a;
TRUNCATE t;
ROLLBACK TO a;
COMMIT;
SELECT test_messages();

-- A rewrite of the table: changes after it are seen, those before it refused.
-- A type that stays needs none.
BEGIN;
CLUSTER t USING t_pkey;
UPDATE t SET v = 'after' WHERE id = 1;
INSERT INTO t VALUES (2, 'after');
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE t SET v = 'before' WHERE id = 1;
ALTER TABLE t ALTER COLUMN v TYPE text;
COMMIT;
BEGIN;
UPDATE t SET v = 'lost' WHERE id = 1;
ALTER TABLE t ADD COLUMN u uuid DEFAULT gen_random_uuid();
COMMIT;
BEGIN;
DELETE FROM t WHERE id = 1;
CLUSTER t USING t_pkey;
COMMIT;
SELECT test_messages();

-- Registered in the transaction that has made and filled the table.
BEGIN;
CREATE TABLE fresh (id int PRIMARY KEY, v text);
INSERT INTO fresh VALUES (1, 'a'), (2, 'b');
SELECT cqrs_register('fresh');
UPDATE fresh SET v = 'c' WHERE id = 1;
INSERT INTO fresh VALUES (3, 'd');
COMMIT;
SELECT test_messages();
BEGIN;
TRUNCATE fresh;
COPY fresh (id, v) FROM stdin WITH (FREEZE);
7	frozen
8	frozen
\.
UPDATE fresh SET v = 'thawed' WHERE id = 8;
COMMIT;
SELECT test_messages();
DROP TABLE fresh;

-- Two-phase commit.
BEGIN;
UPDATE t SET v = 'prepared' WHERE id = 1;
PREPARE TRANSACTION 'a';
SELECT test_messages();
COMMIT PREPARED 'a';
SELECT test_messages();
BEGIN;
DELETE FROM t;
PREPARE TRANSACTION 'b';
ROLLBACK PREPARED 'b';
SELECT test_messages();

-- Production switched off, and replicated changes.
BEGIN;
SET LOCAL cqrs.produce = off;
UPDATE t SET v = 'silent' WHERE id = 1;
COMMIT;
UPDATE t SET v = 'loud' WHERE id = 1;
SET session_replication_role = replica;
UPDATE t SET v = 'replicated' WHERE id = 1;
RESET session_replication_role;
SELECT test_messages();

-- Dropped, added and generated columns, large values; lastval() is the user's.
CREATE SEQUENCE s;
SELECT cqrs_alter('t', '{"fields": ["id"]}');
ALTER TABLE t DROP COLUMN v, ADD COLUMN w text DEFAULT 'w',
	ADD COLUMN g text GENERATED ALWAYS AS (w || '?') STORED, ADD COLUMN large text;
SELECT cqrs_alter('t', '{"fields": null}');
ALTER TABLE t ALTER COLUMN large SET STORAGE EXTERNAL;
SELECT nextval('s');
UPDATE t SET w = 'new', large = repeat('x', 10000) WHERE id = 1;
SELECT lastval();
SELECT replace(test_messages(), repeat('x', 10000), '10000 x');
UPDATE t SET w = 'newer' WHERE id = 1;
SELECT replace(test_messages(), repeat('x', 10000), '10000 x');
DROP SEQUENCE s;
DROP TABLE t;
DROP FUNCTION change(), late();

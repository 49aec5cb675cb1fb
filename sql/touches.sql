-- What counts as the first touch of a row (I2), where that is hard to tell: after
-- a rewrite, TRUNCATE or COPY FREEZE in the same transaction, and when a later
-- trigger takes an update back.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT cqrs_register('t');
INSERT INTO t VALUES (1, 'a'), (2, 'a');
SELECT test_skip();

-- One revision for the transaction.
BEGIN;
CLUSTER t USING t_pkey;
UPDATE t SET v = 'b';
UPDATE t SET v = 'c';
COMMIT;
SELECT test_messages();
BEGIN;
ALTER TABLE t ADD COLUMN n int DEFAULT random() * 0;
INSERT INTO t (id, v) VALUES (3, 'new');
UPDATE t SET v = 'd';
UPDATE t SET v = 'e';
DELETE FROM t WHERE id = 2;
COMMIT;
SELECT test_messages();

-- A row that was born after the TRUNCATE has never had another key.
BEGIN;
TRUNCATE t;
INSERT INTO t VALUES (6, 'x');
UPDATE t SET id = 3 WHERE id = 6;
COMMIT;
SELECT test_messages();
-- Rows of COPY FREEZE do not say that they are new: their first update counts.
BEGIN;
TRUNCATE t;
COPY t (id, v) FROM stdin WITH (FREEZE);
7	frozen
\.
UPDATE t SET v = 'thawed';
UPDATE t SET v = 'thawed again';
COMMIT;
SELECT test_messages();
-- In a transaction that created the table, registered before and after; a
-- savepoint that takes some of the rows back.
BEGIN;
CREATE TABLE f (id int PRIMARY KEY, v text);
COPY f FROM stdin WITH (FREEZE);
1	before
\.
SELECT cqrs_register('f');
DELETE FROM f WHERE id = 1;
COPY f (id, v) FROM stdin WITH (FREEZE);
2	after
3	after
4	after
\.
SAVEPOINT s;
TRUNCATE f;
COPY f (id, v) FROM stdin WITH (FREEZE);
5	gone
\.
ROLLBACK TO s;
UPDATE f SET v = 'thawed' WHERE id = 3;
DELETE FROM f WHERE id = 4;
COMMIT;
SELECT test_messages();
SELECT id, v, cqrs_revision FROM f;
DROP TABLE f;
-- A savepoint that takes the rewrite back.
BEGIN;
UPDATE t SET v = 'before';
SAVEPOINT s;
TRUNCATE t;
INSERT INTO t VALUES (8, 'gone');
ROLLBACK TO s;
UPDATE t SET v = 'after';
COMMIT;
SELECT test_messages();

-- A trigger that fires after ours returns OLD: nothing has changed.
CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER zzz BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION undo();
UPDATE t SET v = 'undone';
SELECT test_messages();
DROP TABLE t;
DROP FUNCTION undo;

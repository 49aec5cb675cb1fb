-- Changes and commands that define tables in one transaction, in any order.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v varchar(20), n int);
SELECT cqrs_register('t', tracked_fields => '{*}');
INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3);
SELECT test_skip();

-- Columns added, renamed and dropped without a rewrite, around changes.
BEGIN;
UPDATE t SET v = 'x' WHERE id = 1;
ALTER TABLE t ADD COLUMN late int DEFAULT 7;
UPDATE t SET late = 8 WHERE id = 1;
DELETE FROM t WHERE id = 2;
INSERT INTO t VALUES (4, 'd', 4);
ALTER TABLE t RENAME COLUMN n TO number;
UPDATE t SET number = 30 WHERE id = 3;
COMMIT;
SELECT test_messages();
-- A rewrite of the table.
CREATE SEQUENCE numbers;
BEGIN;
ALTER TABLE t ADD COLUMN r int DEFAULT nextval('numbers');
UPDATE t SET v = 'after' WHERE id = 1;
DELETE FROM t WHERE id = 3;
INSERT INTO t VALUES (3, 'new', 3);
UPDATE t SET id = 5 WHERE id = 4;
COMMIT;
SELECT test_messages();
BEGIN;
CLUSTER t USING t_pkey;
UPDATE t SET v = 'clustered' WHERE id = 1;
SAVEPOINT a;
DELETE FROM t WHERE id = 1;
ROLLBACK TO a;
COMMIT;
SELECT test_messages();
-- Changes before it make the commit fail, unless they or the rewrite were taken
-- back, or the rows were all removed.
BEGIN;
INSERT INTO t VALUES (6, 'lost');
CLUSTER t USING t_pkey;
COMMIT;
BEGIN;
UPDATE t SET v = 'kept' WHERE id = 1;
SAVEPOINT a;
CLUSTER t USING t_pkey;
UPDATE t SET v = 'undone' WHERE id = 1;
ROLLBACK TO a;
UPDATE t SET v = v || ', too' WHERE id = 1;
COMMIT;
SELECT test_messages();
BEGIN;
SAVEPOINT a;
UPDATE t SET v = 'undone' WHERE id = 1;
ROLLBACK TO a;
CLUSTER t USING t_pkey;
UPDATE t SET v = 'wide' WHERE id = 1;
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE t SET v = 'lost' WHERE id = 1;
TRUNCATE t;
CLUSTER t USING t_pkey;
INSERT INTO t VALUES (1, 'first');
COMMIT;
SELECT test_messages();

-- Masters cannot change, nor another one join, once rows have, before these are
-- sent.
BEGIN;
UPDATE t SET v = 'lost' WHERE id = 1;
SELECT cqrs_alter('t', '{"fields": ["id", "v"]}');
COMMIT;
BEGIN;
UPDATE t SET v = 'two masters' WHERE id = 1;
SELECT test_error($q$SELECT cqrs_register('t', 'second', '{id,v}')$q$);
SELECT cqrs_flush();
SELECT cqrs_register('t', 'second', '{id,v}');
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE t SET v = 'kept' WHERE id = 1;
SAVEPOINT a;
SELECT cqrs_unregister('second');
ROLLBACK TO a;
COMMIT;
SELECT test_messages();
BEGIN;
SELECT cqrs_alter('t', '{"fields": ["id", "number"]}');
SELECT cqrs_unregister('second');
UPDATE t SET v = 'one master' WHERE id = 1;
COMMIT;
SELECT test_messages();

-- The table gets another name, and loses a column that is not published.
SELECT cqrs_alter('t', '{"tracked_fields": ["number"]}');
BEGIN;
UPDATE t SET number = 10 WHERE id = 1;
ALTER TABLE t RENAME TO renamed;
UPDATE renamed SET number = 11 WHERE id = 1;
ALTER TABLE renamed RENAME TO t;
ALTER TABLE t DROP COLUMN late;
UPDATE t SET number = 12 WHERE id = 1;
COMMIT;
SELECT test_messages();

-- A table does not go with changes that are not sent yet.
BEGIN;
SELECT cqrs_sync('t');
SELECT test_error('DROP TABLE t');
ROLLBACK;
BEGIN;
UPDATE t SET number = 0;
SELECT test_error('DROP TABLE t');
CREATE SCHEMA other;
ALTER TABLE t SET SCHEMA other;
SELECT test_error('DROP SCHEMA other CASCADE');
ROLLBACK;
BEGIN;
SAVEPOINT a;
DELETE FROM t;
ROLLBACK TO a;
INSERT INTO t VALUES (7, 'nobody knows it', 7);
UPDATE t SET v = 'still nobody' WHERE id = 7;
DROP TABLE t;
ROLLBACK;
BEGIN;
UPDATE t SET number = 1;
SET LOCAL cqrs.produce = off;
DROP TABLE t;
ROLLBACK;
SELECT test_messages();
-- Tables that come and go.
BEGIN;
DELETE FROM t;
SELECT cqrs_flush();
DROP TABLE t;
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'not a master');
COMMIT;
SELECT test_messages();
BEGIN;
SELECT cqrs_register('t');
INSERT INTO t VALUES (2, 'in vain');
ROLLBACK;
BEGIN;
INSERT INTO t VALUES (3, 'before');
SELECT cqrs_register('t');
UPDATE t SET v = v || ', seen' WHERE id IN (1, 3);
DELETE FROM t WHERE id = 3;
INSERT INTO t VALUES (4, 'seen');
SAVEPOINT a;
UPDATE t SET v = 'undone';
ROLLBACK TO a;
COMMIT;
SELECT test_messages();
CREATE TABLE copy (id int PRIMARY KEY, v text);
BEGIN;
SELECT cqrs_register('copy');
DELETE FROM t;
INSERT INTO copy VALUES (9, 'nine');
DROP TABLE copy;
COMMIT;
SELECT test_messages();

-- COPY FREEZE, before and after other changes.
INSERT INTO t VALUES (1, 'one'), (9, 'nine');
SELECT test_skip();
BEGIN;
UPDATE t SET v = 'x';
TRUNCATE t;
COPY t (id, v) FROM stdin WITH (FREEZE);
1	frozen
2	frozen
3	frozen
\.
UPDATE t SET v = 'thawed' WHERE id = 2;
DELETE FROM t WHERE id = 3;
INSERT INTO t VALUES (3, 'new');
COMMIT;
SELECT test_messages();
DROP TABLE t;
DROP SEQUENCE numbers;

-- Previous values of tracked fields: those at the start of the transaction.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, name text, author_id int, other int);
SELECT cqrs_register('t', tracked_fields => '{author_id,name}',
	field_map => '{"author_id": "author"}');
SELECT cqrs_register('t', 'tall', tracked_fields => '{*}');
SELECT cqrs_register('t', 'none', tracked_fields => '{}');
SELECT test_skip();
INSERT INTO t VALUES (1, 'a', 5, 0);
INSERT INTO t VALUES (2);
SELECT test_messages();
UPDATE t SET name = 'b', author_id = 6 WHERE id = 1;
UPDATE t SET other = 1 WHERE id = 1;
UPDATE t SET name = NULL WHERE id = 1;
UPDATE t SET name = 'c' WHERE id = 1;
SELECT test_messages();
BEGIN;
UPDATE t SET name = 'd' WHERE id = 1;
UPDATE t SET name = 'e', author_id = 7 WHERE id = 1;
UPDATE t SET author_id = 6 WHERE id = 1;
SAVEPOINT a;
UPDATE t SET author_id = 9 WHERE id = 1;
ROLLBACK TO a;
COMMIT;
SELECT test_messages();
BEGIN;
INSERT INTO t VALUES (3, 'x');
UPDATE t SET name = 'y' WHERE id = 3;
COMMIT;
UPDATE t SET id = 4 WHERE id = 3;
SELECT test_messages();
SELECT cqrs_sync('t', 'id = 1');
DELETE FROM t WHERE id = 1;
SELECT test_messages();
DROP TABLE t;

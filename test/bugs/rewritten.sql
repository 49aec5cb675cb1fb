-- After the table was rewritten or truncated in the same transaction, and after
-- COPY FREEZE, every touch of a row counts as its first.  Needs sql/setup.sql.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT cqrs_register('t');
INSERT INTO t VALUES (1, 'a');
SELECT test_skip();

-- Seen: revision 2.  Right: 1, one for the transaction.
BEGIN;
CLUSTER t USING t_pkey;
UPDATE t SET v = 'b';
UPDATE t SET v = 'c';
COMMIT;
SELECT test_messages();

-- Seen: DELETE 1; DELETE 6, which nobody has ever seen; SAVE 3, revision 1.
-- Right: DELETE 1; SAVE 3, revision 0.
BEGIN;
TRUNCATE t;
INSERT INTO t VALUES (6, 'x');
UPDATE t SET id = 3 WHERE id = 6;
COMMIT;
SELECT test_messages();

-- Seen: revision 2 of a new row.  Right: 0.
BEGIN;
TRUNCATE t;
COPY t (id, v) FROM stdin WITH (FREEZE);
7	frozen
\.
UPDATE t SET v = 'thawed';
UPDATE t SET v = 'thawed again';
COMMIT;
SELECT test_messages();
DROP TABLE t;

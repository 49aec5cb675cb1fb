-- MERGE, SET ACCESS METHOD, reserved prefixes of settings.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT cqrs_register('t', tracked_fields => '{v}');
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
SELECT test_skip();
MERGE INTO t USING (VALUES (1), (2), (4)) s (id) ON t.id = s.id
	WHEN MATCHED AND s.id = 1 THEN DELETE
	WHEN MATCHED THEN UPDATE SET v = 'merged'
	WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged');
SELECT test_messages() ORDER BY 1;
MERGE INTO t USING (VALUES (2, 20)) s (id, new_id) ON t.id = s.id
	WHEN MATCHED THEN UPDATE SET id = s.new_id;
SELECT test_messages();
MERGE INTO t USING t s ON t.id = s.id WHEN MATCHED THEN DO NOTHING;
MERGE INTO t USING (VALUES (3), (5)) s (id) ON t.id = s.id
	WHEN MATCHED AND false THEN DELETE
	WHEN NOT MATCHED THEN DO NOTHING;
SELECT test_messages();
-- Into a partitioned table, with a row that moves to another partition.
CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
SELECT cqrs_register('p');
INSERT INTO p VALUES (1, 'stays'), (2, 'moves'), (11, 'goes');
SELECT test_skip();
MERGE INTO p USING (VALUES (1, 1), (2, 12), (11, NULL), (3, 3), (4, NULL)) s (id, new_id)
	ON p.id = s.id
	WHEN MATCHED AND s.new_id IS NULL THEN DELETE
	WHEN MATCHED AND s.id = 1 THEN DO NOTHING
	WHEN MATCHED THEN UPDATE SET id = s.new_id
	WHEN NOT MATCHED AND s.new_id IS NULL THEN DO NOTHING
	WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'new');
SELECT test_messages() ORDER BY 1;
DROP TABLE p;
-- Touched before and after in one transaction.
BEGIN;
UPDATE t SET v = 'before' WHERE id = 3;
MERGE INTO t USING (VALUES (3), (4), (5)) s (id) ON t.id = s.id
	WHEN MATCHED THEN UPDATE SET v = v || ' merged'
	WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'new');
DELETE FROM t WHERE id = 5;
UPDATE t SET v = v || ' after' WHERE id = 4;
COMMIT;
SELECT test_messages();
-- A source row too many: nothing is sent.
MERGE INTO t USING (VALUES (3, 'x'), (3, 'y')) s (id, v) ON t.id = s.id
	WHEN MATCHED THEN UPDATE SET v = s.v;
SELECT test_messages();
-- Versions of rows are read as heap has them.
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
SELECT test_error('ALTER TABLE t SET ACCESS METHOD heap2');
SELECT test_error('ALTER TABLE t SET ACCESS METHOD nope');
DROP ACCESS METHOD heap2;
DROP TABLE t;
SET cqrs.nope = 1;

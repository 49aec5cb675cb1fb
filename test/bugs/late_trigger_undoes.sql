-- A BEFORE UPDATE trigger that fires after cqrs's and returns OLD takes the new
-- revision back.  Needs sql/setup.sql.
--
-- Seen: a second SAVE with revision 0, as the first one.  Right: none, since
-- nothing has changed.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT cqrs_register('t');
CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER zzz BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION undo();
SELECT test_skip();
INSERT INTO t VALUES (1, 'a');
UPDATE t SET v = 'b';
SELECT test_messages();
DROP TABLE t;
DROP FUNCTION undo;

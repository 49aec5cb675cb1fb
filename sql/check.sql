-- cqrs_check; and what it calls a copy (I31).
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
DELETE FROM cqrs.parked;
CREATE ROLE regress_owner;
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE b (id int PRIMARY KEY);
CREATE TABLE c (id int PRIMARY KEY);
CREATE TABLE d (id int PRIMARY KEY);
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE FUNCTION a_meta(a, text, jsonb, jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT '{}'::jsonb$$;
SELECT cqrs_register('a', meta => 'a_meta');
SELECT cqrs_register('b', replication => 'always');
SELECT cqrs_register('c');
SELECT cqrs_register('d', produce => false);
SELECT cqrs_register('p');
ALTER TABLE a OWNER TO regress_owner;
SELECT item, status, detail, remedy FROM cqrs_check() WHERE item IN ('url', 'produce', 'parked');
SELECT item FROM cqrs_check();
SELECT * FROM cqrs_check() WHERE item LIKE 'master%';

-- An outbox that is larger than it may be.
SET cqrs.max_pending_bytes = '1kB';
SELECT status, detail ~ 'cqrs.max_pending_bytes is 1024 bytes$', remedy FROM cqrs_check() WHERE item = 'outbox';
SET cqrs.max_pending_bytes = '1TB';
SELECT status <> 'error', detail ~ 'max_pending' FROM cqrs_check() WHERE item = 'outbox';
RESET cqrs.max_pending_bytes;

-- Trouble with masters: a function, the definition.
REVOKE EXECUTE ON FUNCTION a_meta FROM PUBLIC;
INSERT INTO cqrs.master (cqrs_id, relation, produce, fields) VALUES ('c2', 'c', true, '{id,nope}');
SELECT * FROM cqrs_check() WHERE status = 'error' AND item LIKE 'master%';
DELETE FROM cqrs.master WHERE cqrs_id = 'c2';
GRANT EXECUTE ON FUNCTION a_meta TO PUBLIC;
-- Functions of settings, where they are used.
SET cqrs.meta_function = 'public.nope';
SELECT * FROM cqrs_check() WHERE status = 'error' AND item LIKE 'master%';
RESET cqrs.meta_function;
SET cqrs.correlation_function = 'nope';
SELECT * FROM cqrs_check() WHERE status = 'error' AND item = 'master a';
RESET cqrs.correlation_function;
-- Triggers: missing, disabled, not as "replication" says; of partitions, too.
CREATE TABLE e (id int PRIMARY KEY);
INSERT INTO cqrs.master (cqrs_id, relation, produce) VALUES ('e', 'e', true);
ALTER TABLE a DISABLE TRIGGER ALL;
ALTER TABLE a ENABLE TRIGGER zz_cqrs_update;
ALTER TABLE b ENABLE REPLICA TRIGGER zz_cqrs_update;
ALTER TABLE c ENABLE ALWAYS TRIGGER zz_cqrs_truncate;
ALTER TABLE p1 DISABLE TRIGGER USER;
SELECT * FROM cqrs_check() WHERE status = 'error' AND item LIKE 'master%';
-- The remedy.
SELECT cqrs_alter('a', '{"replication": "origin"}');
SELECT cqrs_alter('p', '{"replication": "origin"}');
SELECT * FROM cqrs_check() WHERE item IN ('master a', 'master p');

-- A table with triggers and without a master, as a dump of a table alone brings
-- it; and a trigger that only has the name.
CREATE TABLE f (id int PRIMARY KEY);
CREATE TRIGGER zz_cqrs_update BEFORE UPDATE ON f FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_update();
CREATE TRIGGER zz_cqrs_truncate BEFORE TRUNCATE ON f EXECUTE FUNCTION cqrs.trigger_truncate();
SELECT * FROM cqrs_check() WHERE item LIKE 'table%';
SELECT cqrs_register('f');
SELECT * FROM cqrs_check() WHERE item IN ('table f', 'master f');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'f'::regclass;
DROP TABLE f;
CREATE TABLE f (id int PRIMARY KEY);
CREATE FUNCTION f_nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE TRIGGER zz_cqrs_update BEFORE UPDATE ON f FOR EACH ROW EXECUTE FUNCTION f_nothing();
SELECT test_error('SELECT cqrs_register(''f'')');
DROP TRIGGER zz_cqrs_update ON f;
CREATE TRIGGER zz_cqrs_update BEFORE UPDATE ON f FOR EACH ROW
	WHEN (OLD.id > 1) EXECUTE FUNCTION cqrs.trigger_update();
SELECT test_error('SELECT cqrs_register(''f'')');
DROP TRIGGER zz_cqrs_update ON f;
CREATE TRIGGER zz_cqrs_update BEFORE UPDATE ON f FOR EACH ROW EXECUTE FUNCTION f_nothing();
INSERT INTO cqrs.master (cqrs_id, relation, produce) VALUES ('f', 'f', true);
SELECT * FROM cqrs_check() WHERE item = 'master f';
DROP TABLE f;
DROP FUNCTION f_nothing;

SET cqrs.produce = off;
SELECT * FROM cqrs_check() WHERE item = 'produce';
RESET cqrs.produce;

-- Parked messages.
CREATE FUNCTION c_fails(c) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$BEGIN RAISE 'secret'; END$$;
SELECT cqrs_alter('c', '{"serializer": "c_fails", "on_error": "park"}');
INSERT INTO c VALUES (1), (2);
SELECT * FROM cqrs_check() WHERE item = 'parked';
DELETE FROM cqrs.parked;

-- For monitors; and what only the others may see does not show through.
CREATE ROLE regress_stranger;
CREATE ROLE regress_monitor IN ROLE pg_monitor;
SET ROLE regress_stranger;
SELECT test_error('SELECT cqrs_check()');
SELECT test_error('SELECT cqrs.check_master(''a'')');
SELECT test_error('SELECT cqrs.url_is_set()');
SELECT count(*) FROM cqrs.progress_sync;
SET ROLE regress_monitor;
SELECT count(*) FROM cqrs_check() WHERE item IN ('url', 'publisher');
RESET ROLE;
-- Masters that somebody has written to the table are taken for those of a dump.
SET client_min_messages = warning;
SELECT cqrs.is_copy();
CALL cqrs_sync_all('b');
SELECT cqrs_resume();
SELECT cqrs.is_copy();
CALL cqrs_sync_all('b');
BEGIN;
INSERT INTO cqrs.home VALUES (gen_random_uuid(), 1);
SELECT cqrs.is_copy();
ROLLBACK;
-- Those of this database change nothing.
INSERT INTO cqrs.home TABLE cqrs.home;
INSERT INTO cqrs.home SELECT h.* FROM cqrs.home h WHERE false;
SELECT cqrs.is_copy();
-- And an id alone is not enough.
BEGIN;
INSERT INTO cqrs.home SELECT p.home, 1 FROM cqrs.publisher p;
SELECT cqrs.is_copy();
ROLLBACK;
BEGIN;
INSERT INTO cqrs.home SELECT NULL, d.oid FROM pg_database d WHERE d.datname = current_database();
SELECT cqrs.is_copy();
ROLLBACK;
SELECT cqrs.is_copy();
SET client_min_messages = error;
DROP TABLE a, b, c, d, e, p CASCADE;
DROP ROLE regress_stranger, regress_monitor, regress_owner;

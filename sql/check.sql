-- cqrs_check.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE b (id int PRIMARY KEY);
CREATE TABLE c (id int PRIMARY KEY);
CREATE TABLE d (id int PRIMARY KEY);
CREATE FUNCTION a_meta(a, text, jsonb, jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT '{}'::jsonb$$;
SELECT cqrs_register('a', meta => 'a_meta');
SELECT cqrs_register('b');
SELECT cqrs_register('c');
SELECT cqrs_register('d', produce => false);
SELECT item, status, detail, remedy FROM cqrs_check() WHERE item IN ('url', 'produce');
SELECT item FROM cqrs_check();
SELECT * FROM cqrs_check() WHERE item LIKE 'master%';
-- Trouble with masters.
DROP FUNCTION a_meta;
ALTER TABLE b DISABLE TRIGGER zz_cqrs_update;
DROP TRIGGER zz_cqrs_truncate ON b;
ALTER TABLE c DROP COLUMN cqrs_updated;
SELECT * FROM cqrs_check() WHERE item LIKE 'master%';
SET cqrs.produce = off;
SELECT * FROM cqrs_check() WHERE item = 'produce';
RESET cqrs.produce;

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
DROP ROLE regress_stranger, regress_monitor;
DROP TABLE a, b, c, d;

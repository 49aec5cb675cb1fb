-- Changes of the schema below masters: refused, or followed.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
CREATE TYPE mood AS ENUM ('fine', 'bad');
CREATE DOMAIN short AS varchar(10);
CREATE TYPE pair AS (a int, b int);
CREATE TABLE t (id int PRIMARY KEY, name varchar(10), feeling mood, label short,
	p pair, secret text, old text, mapped text);
CREATE TABLE every (id int PRIMARY KEY, name varchar(10), extra text);
SELECT cqrs_register('t', fields => '{id,name,feeling,label,p}',
	tracked_fields => '{name,old}', field_map => '{"label": "tag", "mapped": "m"}');
SELECT cqrs_register('every');
INSERT INTO t VALUES (1, 'a', 'fine', 'l', (1, 2), 's', 'o', 'm');
INSERT INTO every VALUES (1, 'a', 'e');
SELECT test_skip();

-- Columns that a master uses cannot go, whatever way.
SELECT test_error('ALTER TABLE t DROP COLUMN name');
SELECT test_error('ALTER TABLE t DROP COLUMN old');
SELECT test_error('ALTER TABLE t DROP COLUMN mapped');
SELECT test_error('ALTER TABLE every DROP extra, ADD extra text');
SELECT test_error('ALTER TABLE t DROP COLUMN id');
SELECT test_error('ALTER TABLE t DROP COLUMN cqrs_revision');
SELECT test_error('ALTER TABLE t DROP COLUMN cqrs_updated');
SELECT test_error('DROP TYPE mood');
SELECT test_error('DROP TYPE mood CASCADE');
SELECT test_error('DROP DOMAIN short CASCADE');
SELECT test_error('DROP TYPE pair CASCADE');
CREATE ROLE regress_owner;
ALTER TYPE mood OWNER TO regress_owner;
SELECT test_error('DROP OWNED BY regress_owner CASCADE');
ALTER TYPE mood OWNER TO CURRENT_USER;
DROP ROLE regress_owner;
CREATE SCHEMA types;
ALTER TYPE mood SET SCHEMA types;
SELECT test_error('DROP SCHEMA types CASCADE');
ALTER TYPE types.mood SET SCHEMA public;
DROP SCHEMA types;
CREATE EXTENSION citext;
CREATE TABLE c (id int PRIMARY KEY, v citext);
SELECT cqrs_register('c');
SELECT test_error('DROP EXTENSION citext CASCADE');
DROP TABLE c;
DROP EXTENSION citext;
SELECT test_error('DO $$BEGIN EXECUTE ''ALTER TABLE t DROP COLUMN name''; END$$');

-- A column of no master can, and one that was taken out of it.
BEGIN;
ALTER TABLE t DROP COLUMN secret;
SELECT cqrs_alter('every', '{"fields": ["id", "name"]}');
ALTER TABLE every DROP COLUMN extra;
SELECT cqrs_alter('every', '{"fields": null}');
UPDATE t SET name = 'b';
UPDATE every SET name = 'b';
COMMIT;
SELECT test_messages();

-- Types.
SELECT test_error('ALTER TABLE t ALTER COLUMN name TYPE text');
SELECT test_error('ALTER TABLE t ALTER COLUMN old TYPE varchar(5)');
SELECT test_error('ALTER TABLE t ALTER COLUMN id TYPE bigint');
SELECT test_error('ALTER TABLE t ALTER COLUMN cqrs_revision TYPE bigint');
SELECT test_error('ALTER TABLE t ALTER COLUMN name TYPE nope');
SELECT test_error('ALTER TABLE t ALTER COLUMN nope TYPE text');
ALTER TABLE t ALTER COLUMN name TYPE varchar(20), ALTER COLUMN mapped TYPE varchar(20);
CREATE TABLE typed OF pair (PRIMARY KEY (a));
SELECT test_error('ALTER TYPE pair ALTER ATTRIBUTE b TYPE bigint CASCADE');
SELECT test_error('SELECT cqrs_register(''typed'')');
DROP TABLE typed;
UPDATE t SET name = 'longer than ten';
SELECT test_messages();

-- It is judged before the table is rewritten.
CREATE FUNCTION noisy(text) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN RAISE EXCEPTION 'evaluated'; END$$;
SELECT test_error('ALTER TABLE t ALTER COLUMN name TYPE int USING noisy(name)');
DROP FUNCTION noisy;

-- Key, NOT NULL, persistence, access method, inheritance.
SELECT test_error('ALTER TABLE t DROP CONSTRAINT t_pkey');
SELECT test_error('ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (name)');
CREATE UNIQUE INDEX fresh ON t (id);
ALTER TABLE t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY USING INDEX fresh;
SELECT test_error('ALTER TABLE t ALTER COLUMN cqrs_revision DROP NOT NULL');
SELECT test_error('ALTER TABLE t ALTER COLUMN cqrs_updated DROP NOT NULL');
SELECT test_error('ALTER TABLE t SET UNLOGGED');
CREATE TABLE plain (id int NOT NULL);
SELECT test_error('ALTER TABLE t INHERIT plain');
SELECT test_error('CREATE TABLE child () INHERITS (t)');
CREATE TABLE child (LIKE t);
SELECT test_error('ALTER TABLE child INHERIT t');
DROP TABLE child, plain;
CREATE TABLE parted (LIKE t) PARTITION BY LIST (id);
SELECT test_error('ALTER TABLE parted ATTACH PARTITION t FOR VALUES IN (1)');
DROP TABLE parted;

-- Triggers.
SELECT test_error('DROP TRIGGER zz_cqrs_update ON t');
SELECT test_error('ALTER TRIGGER "00_cqrs_insert_delete" ON t RENAME TO x');
SELECT test_error('ALTER TABLE t DISABLE TRIGGER zz_cqrs_truncate');
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
SELECT test_error('CREATE OR REPLACE TRIGGER zz_cqrs_update BEFORE UPDATE ON t
	FOR EACH ROW EXECUTE FUNCTION nothing()');
CREATE TRIGGER other BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE OR REPLACE TRIGGER other BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TRIGGER other ON t RENAME TO another;
ALTER TABLE t DISABLE TRIGGER another;
DROP TRIGGER another ON t;
DROP FUNCTION nothing();
ALTER TABLE t DISABLE TRIGGER ALL;
ALTER TABLE t DISABLE TRIGGER zz_cqrs_update;
ALTER TABLE t ENABLE TRIGGER ALL;
ALTER TABLE t DISABLE TRIGGER USER;
ALTER TABLE t ENABLE TRIGGER USER;

-- Renamed columns are followed: messages stay as they were.
UPDATE t SET name = 'c', label = 'm', old = 'p';
SELECT test_messages();
ALTER TABLE t RENAME COLUMN name TO title;
ALTER TABLE t RENAME COLUMN label TO sticker;
ALTER TABLE t RENAME COLUMN old TO older;
ALTER TABLE t RENAME COLUMN mapped TO charted;
ALTER TABLE t RENAME COLUMN id TO number;
SELECT fields, tracked_fields, field_map FROM cqrs.master WHERE cqrs_id = 't';
UPDATE t SET title = 'd', sticker = 'n', older = 'q';
SELECT test_messages();
-- Back, which needs no map.
ALTER TABLE t RENAME COLUMN title TO name;
ALTER TABLE t RENAME COLUMN number TO id;
SELECT fields, tracked_fields, field_map FROM cqrs.master WHERE cqrs_id = 't';
ALTER TABLE every RENAME COLUMN name TO title;
SELECT fields, tracked_fields, field_map FROM cqrs.master WHERE cqrs_id = 'every';
UPDATE every SET title = 'c';
SELECT test_messages();
SELECT test_error('ALTER TABLE every ADD COLUMN name text');
ALTER TABLE every RENAME COLUMN title TO name;
SELECT fields, tracked_fields, field_map FROM cqrs.master WHERE cqrs_id = 'every';
ALTER TABLE every ADD COLUMN added int DEFAULT 7;
UPDATE every SET name = 'd';
SELECT test_messages();
SELECT test_error('ALTER TABLE t RENAME COLUMN cqrs_revision TO x');
SELECT test_error('ALTER TABLE t RENAME COLUMN cqrs_updated TO x');
-- In the transaction that has changed rows, and taken back.
BEGIN;
UPDATE t SET name = 'e';
ALTER TABLE t RENAME COLUMN name TO title;
UPDATE t SET title = 'f';
SAVEPOINT a;
ALTER TABLE t RENAME COLUMN title TO heading;
ROLLBACK TO a;
UPDATE t SET title = 'g';
COMMIT;
SELECT test_messages();
BEGIN;
ALTER TABLE t RENAME COLUMN title TO name;
ROLLBACK;
SELECT fields, field_map FROM cqrs.master WHERE cqrs_id = 't';
UPDATE t SET title = 'h';
SELECT test_messages();
-- By an owner, who cannot write to cqrs.master.
CREATE ROLE regress_owner;
GRANT CREATE ON SCHEMA public TO regress_owner;
ALTER TABLE every OWNER TO regress_owner;
SET ROLE regress_owner;
ALTER TABLE every RENAME COLUMN name TO title;
SELECT test_error('ALTER TABLE every DROP COLUMN title');
SELECT test_error('ALTER TABLE t ALTER COLUMN title TYPE text');
RESET ROLE;
SELECT field_map FROM cqrs.master WHERE cqrs_id = 'every';
DROP TABLE every;
REVOKE CREATE ON SCHEMA public FROM regress_owner;
DROP ROLE regress_owner;

-- A swap by two renames leaves the master with the old table, and says so.
CREATE TABLE swap (id int PRIMARY KEY);
CREATE TABLE swap_new (id int PRIMARY KEY);
SELECT cqrs_register('swap');
SET client_min_messages = notice;
ALTER TABLE swap RENAME TO swap_old;
ALTER TABLE swap_new RENAME TO swap;
SET client_min_messages = error;
SELECT relation FROM cqrs.master WHERE cqrs_id = 'swap';
DROP TABLE swap, swap_old;

-- The table's own name and schema do not matter.
CREATE SCHEMA elsewhere;
ALTER TABLE t RENAME TO u;
ALTER TABLE u SET SCHEMA elsewhere;
ALTER SCHEMA elsewhere RENAME TO nowhere;
SELECT relation FROM cqrs.master;
UPDATE nowhere.u SET title = 'i';
SELECT test_messages();
SELECT test_error('ALTER TABLE nowhere.u DROP COLUMN title');

-- Functions of masters.
CREATE FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb) RETURNS jsonb
	LANGUAGE sql STABLE AS $$SELECT '{"v": 1}'::jsonb$$;
SELECT cqrs_alter('t', '{"meta": "nowhere.m"}');
CREATE FUNCTION nowhere.m(int) RETURNS int LANGUAGE sql STABLE AS $$SELECT 1$$;
SELECT test_error('DROP FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb)');
SELECT test_error('DROP ROUTINE nowhere.m(nowhere.u, text, jsonb, jsonb)');
SELECT test_error('ALTER FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb) RENAME TO n');
SELECT test_error('ALTER FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb) SET SCHEMA public');
SELECT test_error('ALTER FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb) VOLATILE');
SELECT test_error('ALTER SCHEMA nowhere RENAME TO somewhere');
SELECT test_error('CREATE OR REPLACE FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb)
	RETURNS jsonb LANGUAGE sql AS $x$SELECT NULL::jsonb$x$');
CREATE FUNCTION inner_m() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2';
CREATE OR REPLACE FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb) RETURNS jsonb
	LANGUAGE sql STABLE BEGIN ATOMIC; SELECT jsonb_build_object('v', inner_m()); END;
SELECT test_error('DROP FUNCTION inner_m() CASCADE');
ALTER FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb) IMMUTABLE;
DROP FUNCTION nowhere.m(int);
UPDATE nowhere.u SET title = 'j';
SELECT test_messages();
CREATE OR REPLACE FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb) RETURNS jsonb
	LANGUAGE sql STABLE AS $$SELECT '{"v": 3}'::jsonb$$;
DROP FUNCTION inner_m();
BEGIN;
SELECT cqrs_alter('t', '{"meta": null}');
DROP FUNCTION nowhere.m(nowhere.u, text, jsonb, jsonb);
ROLLBACK;

-- DROP TABLE and DROP SCHEMA take masters along.
SELECT test_error('DROP TABLE nowhere.u');
BEGIN;
DROP TABLE nowhere.u CASCADE;
SELECT count(*) FROM cqrs.master;
ROLLBACK;
SELECT count(*) FROM cqrs.master;
DROP SCHEMA nowhere CASCADE;
SELECT count(*) FROM cqrs.master;
DROP DOMAIN short;
DROP TYPE pair, mood;

-- Partitions of a master.
CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
CREATE TABLE part PARTITION OF root FOR VALUES IN (1);
SELECT cqrs_register('root');
SELECT test_error('ALTER TABLE part SET UNLOGGED');
SELECT test_error('ALTER TABLE root DROP COLUMN v');
SELECT test_error('ALTER TABLE root RENAME COLUMN cqrs_updated TO x');
SELECT test_error('DROP TRIGGER zz_cqrs_update ON root');
SELECT test_error('DROP TRIGGER zz_cqrs_truncate ON part');
SELECT test_error('ALTER TABLE part DISABLE TRIGGER zz_cqrs_update');
SELECT test_error('ALTER TABLE part DISABLE TRIGGER zz_cqrs_truncate');
SELECT test_error('ALTER TRIGGER zz_cqrs_update ON root RENAME TO x');
-- They stay disabled until they are enabled.
ALTER TABLE part DISABLE TRIGGER ALL;
ALTER TABLE part ADD CHECK (v <> '');
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE tgname ~ '_cqrs_' ORDER BY 1, 2;
ALTER TABLE part ENABLE TRIGGER ALL;
INSERT INTO root VALUES (1, 'a');
ALTER TABLE root RENAME COLUMN v TO w;
SELECT field_map FROM cqrs.master;
UPDATE root SET w = 'b';
SELECT test_messages();
ALTER TABLE root DETACH PARTITION part;
ALTER TABLE part SET UNLOGGED;
SELECT test_error('ALTER TABLE root ATTACH PARTITION part FOR VALUES IN (1)');
ALTER TABLE part SET LOGGED;
ALTER TABLE root ATTACH PARTITION part FOR VALUES IN (1);
-- A table that is a master itself, or has triggers of one that is gone.
CREATE TABLE own (id int PRIMARY KEY, w text);
SELECT cqrs_register('own');
SELECT test_error('ALTER TABLE root ATTACH PARTITION own FOR VALUES IN (2)');
SELECT cqrs_unregister('own');
CREATE TRIGGER zz_cqrs_update BEFORE UPDATE ON own
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_update();
SELECT test_error('ALTER TABLE root ATTACH PARTITION own FOR VALUES IN (2)');
DROP TRIGGER zz_cqrs_update ON own;
ALTER TABLE root ATTACH PARTITION own FOR VALUES IN (2);
DROP TABLE root;
SELECT count(*) FROM cqrs.master;

-- While a dump is restored, a master may lack anything for a while.
CREATE TABLE r (id int NOT NULL, v text, cqrs_revision int NOT NULL DEFAULT 0);
INSERT INTO r VALUES (1, 'a');
INSERT INTO cqrs.master (cqrs_id, relation, fields, produce)
	VALUES ('r', 'r', '{id,v,late}', true);
CREATE TRIGGER zz_cqrs_update BEFORE UPDATE ON r
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_update();
SELECT test_error('UPDATE r SET v = ''b''');
ALTER TABLE r ADD COLUMN cqrs_updated timestamptz DEFAULT now();
SELECT test_error('UPDATE r SET v = ''b''');
ALTER TABLE r ALTER COLUMN cqrs_updated SET NOT NULL;
SELECT test_error('UPDATE r SET v = ''b''');
ALTER TABLE r ADD CONSTRAINT r_pkey PRIMARY KEY (id);
SELECT test_error('UPDATE r SET v = ''b''');
ALTER TABLE r ADD COLUMN late int;
UPDATE r SET v = 'b';
SELECT id, v, cqrs_revision FROM r;
DROP TABLE r;
SELECT cqrs_resume();

-- A row that is rolled back was not restored; one that is committed was.
CREATE TABLE r (id int PRIMARY KEY);
SELECT cqrs_register('r');
BEGIN;
SAVEPOINT s;
DELETE FROM cqrs.master WHERE cqrs_id = 'r';
INSERT INTO cqrs.master (cqrs_id, relation, produce) VALUES ('r', 'r', true);
INSERT INTO r VALUES (1);
RELEASE s;
ROLLBACK;
BEGIN;
SAVEPOINT s;
DELETE FROM cqrs.master WHERE cqrs_id = 'r';
INSERT INTO cqrs.master (cqrs_id, relation, produce) VALUES ('r', 'r', true);
ROLLBACK TO s;
INSERT INTO r VALUES (2);
COMMIT;
INSERT INTO r VALUES (3);
SELECT cqrs_id, instance_pk FROM cqrs.outbox WHERE cqrs_id = 'r' ORDER BY id;
BEGIN;
SAVEPOINT s;
DELETE FROM cqrs.master WHERE cqrs_id = 'r';
INSERT INTO cqrs.master (cqrs_id, relation, produce) VALUES ('r', 'r', true);
RELEASE s;
COMMIT;
INSERT INTO r VALUES (4);
SELECT cqrs_id, instance_pk FROM cqrs.outbox WHERE cqrs_id = 'r' AND instance_pk = '4';
DROP TABLE r;
SELECT cqrs_resume();

-- What a review found: rights that must not be had (I18), states that must not
-- last.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
SELECT test_skip();

-- A condition is compiled with the owner's rights and path, whoever comes first.
CREATE ROLE regress_abuse_owner;
CREATE ROLE regress_abuse_writer;
GRANT ALL ON SCHEMA public TO regress_abuse_owner, regress_abuse_writer;
CREATE TABLE v (id int PRIMARY KEY, n text);
ALTER TABLE v OWNER TO regress_abuse_owner;
CREATE FUNCTION v_json(v) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT to_jsonb($1)$$;
SELECT cqrs_register('v', serializer => 'v_json', sync_when => 'id > 0');
GRANT SELECT, INSERT ON v TO regress_abuse_writer;
CREATE SCHEMA evil AUTHORIZATION regress_abuse_writer;
SET ROLE regress_abuse_writer;
CREATE FUNCTION evil.gt(int, int) RETURNS bool STABLE LANGUAGE plpgsql
	AS $$BEGIN RAISE EXCEPTION 'running as %', current_user; END$$;
CREATE OPERATOR evil.> (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.gt);
SET search_path = evil, pg_catalog, public;
SELECT count(*) FROM cqrs_bulk_dump('v');
SELECT count(*) FROM cqrs_diff_master('v');
INSERT INTO v VALUES (1, 'x');
RESET search_path;
RESET ROLE;
SELECT test_messages();

-- Functions of a domain run as the owner, not as the superuser who retries.
SET ROLE regress_abuse_owner;
CREATE FUNCTION who(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF current_user <> 'regress_abuse_owner' THEN
		RAISE EXCEPTION 'running as %', current_user;
	END IF;
	RETURN true;
END
$$;
CREATE DOMAIN d AS int CHECK (who(value));
CREATE TABLE u (id d PRIMARY KEY, n text);
CREATE FUNCTION u_fails(u) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT to_jsonb(1 / 0)$$;
SELECT cqrs_register('u', serializer => 'u_fails', delete_data => 'u_fails', on_error => 'park');
INSERT INTO u VALUES (1, 'x'), (2, 'y');
DELETE FROM u WHERE id = 2;
RESET ROLE;
SELECT cqrs_retry_parked('u');
SELECT signal_type, instance_pk, error FROM cqrs.parked WHERE cqrs_id = 'u' ORDER BY id;
SELECT cqrs_diff_sync(ARRAY['u,2026-11-23 06:01:02+00:00,q', '[1]']);
-- A key with such a domain deeper inside is read without its functions.
SET ROLE regress_abuse_owner;
CREATE TYPE pair AS (a d);
CREATE TABLE w (id pair PRIMARY KEY);
SELECT cqrs_register('w');
RESET ROLE;
SELECT cqrs_diff_sync(ARRAY['w,2026-11-23 06:01:02+00:00,q', '[{"a": 1}]']);
DELETE FROM cqrs.parked;

-- Rows that forced row security hides are not taken for deleted.
SET ROLE regress_abuse_owner;
SELECT cqrs_alter('v', '{"serializer": "v_json", "sync_when": null, "on_error": "park"}');
ALTER TABLE v ENABLE ROW LEVEL SECURITY;
ALTER TABLE v FORCE ROW LEVEL SECURITY;
RESET ROLE;
INSERT INTO cqrs.parked SELECT id, now(), 'refused', 'e', now(), 'D', 'v', '1', '{}' FROM cqrs.segment_0 LIMIT 1;
SELECT test_error('SELECT cqrs_retry_parked(''v'')');
DELETE FROM cqrs.parked;

-- A made-up row is serialized for nobody but the owner.
SET ROLE regress_abuse_writer;
SELECT test_error($q$SELECT cqrs_to_json(ROW(7, 'x', 0, now())::v, 'v')$q$);
RESET ROLE;
DROP TABLE v, u, w CASCADE;
DROP SCHEMA evil CASCADE;
DROP DOMAIN d CASCADE;
DROP OWNED BY regress_abuse_owner, regress_abuse_writer;
DROP ROLE regress_abuse_owner, regress_abuse_writer;

-- A flush that fails leaves no traces.
CREATE TABLE a (id int PRIMARY KEY, n text);
CREATE FUNCTION a_json(r a) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
	IF r.n = 'bad' THEN
		RAISE 'oops';
	ELSIF r.n = 'flush' THEN
		PERFORM public.cqrs_flush();
	END IF;
	RETURN to_jsonb(r) - '{cqrs_revision,cqrs_updated}'::text[];
END
$$;
SELECT cqrs_register('a', serializer => 'a_json');
SELECT test_skip();
BEGIN;
INSERT INTO a VALUES (1, 'bad');
SAVEPOINT s;
SELECT cqrs_flush();
ROLLBACK TO s;
UPDATE a SET n = 'good';
COMMIT;
DO $$
BEGIN
	INSERT INTO a VALUES (2, 'bad');
	BEGIN
		PERFORM cqrs_flush();
	EXCEPTION WHEN raise_exception THEN
	END;
	UPDATE a SET n = 'better' WHERE id = 2;
END
$$;
SELECT test_messages();
-- Nor does one within the making of messages make them twice.
INSERT INTO a VALUES (3, 'flush');
SELECT test_messages();

-- Each row of a set-wise batch has its meta and correlation id.
CREATE FUNCTION a_set(a[]) RETURNS jsonb[] STABLE LANGUAGE sql
	AS $$SELECT array_agg(jsonb_build_object('id', x.id)) FROM unnest($1) x$$;
CREATE FUNCTION a_meta(r a, signal_type text, instance_data jsonb, previous_data jsonb) RETURNS jsonb
	STABLE LANGUAGE sql AS $$SELECT jsonb_build_object('data', instance_data -> 'id')$$;
SELECT cqrs_alter('a', '{"serializer": "a_set", "meta": "a_meta"}');
SET cqrs.correlation_id = 'corr';
INSERT INTO a VALUES (11, 'x'), (12, 'x'), (13, 'x');
RESET cqrs.correlation_id;
SELECT test_messages();

-- A parked DELETE whose table has got another column since.
CREATE FUNCTION a_custom(r a) RETURNS jsonb STABLE LANGUAGE plpgsql
	AS $$BEGIN RETURN to_jsonb(1 / current_setting('abuse.divisor')::int); END$$;
SELECT cqrs_alter('a', '{"serializer": null, "meta": null, "delete_data": "a_custom", "on_error": "park"}');
SET abuse.divisor = 0;
DELETE FROM a WHERE id > 10;
ALTER TABLE a ADD COLUMN c int DEFAULT 5;
SET abuse.divisor = 1;
SELECT cqrs_retry_parked('a');
SELECT test_messages();

-- TRUNCATE that is ignored ignores nothing else.
SELECT cqrs_alter('a', '{"delete_data": null, "on_truncate": "ignore"}');
BEGIN;
DELETE FROM a WHERE id = 1;
UPDATE a SET n = 'last' WHERE id = 2;
INSERT INTO a VALUES (20, 'born');
TRUNCATE a;
COMMIT;
SELECT test_messages();
DROP TABLE a CASCADE;

-- Columns that are computed after our trigger.
CREATE TABLE g (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED);
SELECT cqrs_register('g', fields => '{id,b}', skip_unchanged => true);
INSERT INTO g VALUES (1, 1);
UPDATE g SET a = 2;
CREATE TABLE gk (a int NOT NULL, n text, id int GENERATED ALWAYS AS (a) STORED PRIMARY KEY);
SELECT cqrs_register('gk');
INSERT INTO gk (a, n) VALUES (1, 'A'), (2, 'B');
BEGIN;
UPDATE gk SET n = 'B2' WHERE a = 2;
UPDATE gk SET a = 10 WHERE a = 1;
UPDATE gk SET a = 1 WHERE a = 2;
COMMIT;
CREATE TABLE lt (id int PRIMARY KEY, n text, m text);
SELECT cqrs_register('lt', fields => '{id,n}', skip_unchanged => true);
CREATE FUNCTION lt_copy() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.n := NEW.m; RETURN NEW; END$$;
CREATE TRIGGER zzz BEFORE UPDATE ON lt FOR EACH ROW EXECUTE FUNCTION lt_copy();
INSERT INTO lt VALUES (1, 'a', 'a');
UPDATE lt SET m = 'b';
SELECT test_messages();
DROP TABLE g, gk, lt;
DROP FUNCTION lt_copy;

-- Keys of parked messages that are no keys of the table any more.
CREATE TABLE pk (a int PRIMARY KEY, b int NOT NULL, c int NOT NULL);
CREATE FUNCTION pk_fails(pk) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT to_jsonb(1 / 0)$$;
SELECT cqrs_register('pk', serializer => 'pk_fails', on_error => 'park');
INSERT INTO pk VALUES (1, 2, 3);
SELECT test_skip();
SELECT cqrs_unregister('pk');
ALTER TABLE pk DROP CONSTRAINT pk_pkey, ADD PRIMARY KEY (a, b);
SELECT cqrs_register('pk');
UPDATE cqrs.parked SET id = 1;
SELECT test_error($$SELECT cqrs_retry_parked('pk')$$);
UPDATE cqrs.parked SET instance_pk = '[1,2,3]';
SELECT test_error($$SELECT cqrs_retry_parked('pk')$$);
UPDATE cqrs.parked SET instance_pk = '[1,null]';
SELECT test_error($$SELECT cqrs_retry_parked('pk')$$);
UPDATE cqrs.parked SET instance_pk = '[1,2]';
SELECT cqrs_retry_parked('pk');
SELECT test_messages();
DROP TABLE pk CASCADE;

-- The extension's own tables keep their form: it writes to them as PostgreSQL does
-- to its catalogs.
CREATE TABLE segments (id bigint NOT NULL, last_id bigint NOT NULL,
	committed_at timestamptz NOT NULL, messages bytea NOT NULL) PARTITION BY RANGE (id);
CREATE INDEX ON segments (messages);
SELECT test_error(command) FROM unnest(ARRAY[
	'CREATE INDEX ON cqrs.failed ((length(error)))',
	'CREATE INDEX CONCURRENTLY ON cqrs.segment_0 (id, committed_at)',
	'ALTER TABLE cqrs.failed ADD COLUMN note text',
	'ALTER TABLE cqrs.master DROP COLUMN meta',
	'ALTER TABLE cqrs.parked SET (fillfactor = 90), ADD CHECK (id > 0)',
	'ALTER TABLE cqrs.segment_0 SET UNLOGGED',
	'ALTER TABLE cqrs.consumer RENAME TO eater',
	'ALTER TABLE cqrs.consumer RENAME queue TO q',
	'ALTER INDEX cqrs.failed_pkey RENAME TO other',
	'ALTER TABLE cqrs.failed SET SCHEMA public',
	'ALTER TABLE cqrs.segment_0 ALTER messages SET STORAGE PLAIN',
	'DROP INDEX IF EXISTS cqrs.none, cqrs.segment_0_id_idx',
	'ALTER TABLE segments ATTACH PARTITION cqrs.segment_0 DEFAULT',
	'ALTER TYPE cqrs.message RENAME TO letter',
	'ALTER TYPE cqrs.message SET SCHEMA public',
	'ALTER SCHEMA cqrs RENAME TO other',
	'ALTER TABLE cqrs.none ADD COLUMN note text']) command;
ALTER TABLE cqrs.failed SET (fillfactor = 90), DISABLE TRIGGER discard,
	ENABLE REPLICA TRIGGER discard, ALTER error SET STATISTICS 10;
ALTER TABLE cqrs.failed RESET (fillfactor), ALTER error SET STATISTICS -1;
DROP TABLE segments;

-- A trigger that somebody adds to the table of the end of a transaction does not
-- fire: there is no row for it.
CREATE TABLE w (id int PRIMARY KEY);
SELECT cqrs_register('w');
CREATE FUNCTION w_log() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'fired'; END$$;
CREATE TRIGGER w AFTER INSERT ON cqrs.at_commit
	FOR EACH ROW WHEN (current_date > '-infinity') EXECUTE FUNCTION w_log();
INSERT INTO w VALUES (1);
SELECT test_messages();
DROP TRIGGER w ON cqrs.at_commit;
-- Nor one in the place of ours that has a condition.
BEGIN;
DROP TRIGGER at_commit ON cqrs.at_commit;
CREATE TRIGGER at_commit AFTER INSERT ON cqrs.at_commit
	FOR EACH ROW WHEN (current_date > '-infinity') EXECUTE FUNCTION w_log();
ALTER TABLE cqrs.at_commit ENABLE ALWAYS TRIGGER at_commit;
SELECT test_error('INSERT INTO w VALUES (2)');
ROLLBACK;
DROP FUNCTION w_log;
DROP TABLE w;

-- The watermark's sequence without a value.
BEGIN;
ALTER SEQUENCE cqrs.watermark RESTART;
SELECT test_error('SELECT cqrs.current_watermark()');
ROLLBACK;

-- Where there is TimescaleDB, tables that inherit are none of its chunks, also if
-- they have lost their first parent.
BEGIN;
CREATE EXTENSION citext;
CREATE SCHEMA _timescaledb_catalog
	CREATE TABLE hypertable (schema_name name, table_name name);
ALTER EXTENSION citext ADD TABLE _timescaledb_catalog.hypertable;
SET LOCAL allow_system_table_mods = on;
UPDATE pg_extension SET extname = 'timescaledb' WHERE extname = 'citext';
CREATE TABLE p ();
CREATE TABLE q ();
CREATE TABLE c (id int PRIMARY KEY) INHERITS (p, q);
ALTER TABLE c NO INHERIT p;
ALTER TABLE c ADD COLUMN n int;
SELECT test_error($$SELECT cqrs_register('c')$$);
ROLLBACK;

-- If the extension cannot be found, changes are refused, and not missed.
CREATE TABLE w (id int PRIMARY KEY);
SELECT cqrs_register('w');
SET allow_system_table_mods = on;
ALTER SCHEMA cqrs RENAME TO other;
\c
SET client_min_messages = error;
INSERT INTO w VALUES (1);
TRUNCATE w;
SET allow_system_table_mods = on;
ALTER SCHEMA other RENAME TO cqrs;
\c
INSERT INTO w VALUES (1);
SELECT test_messages();
DROP TABLE w;

-- The envelope: correlation ids, meta, and the time of expiry.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT cqrs_register('t');
SELECT test_skip();
CREATE FUNCTION test_body() RETURNS text LANGUAGE sql AS $$
	SELECT regexp_replace(body,
		'\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d{6})?\+00:00', 'Y-M-D\1H:M:S', 'g')
	FROM cqrs.outbox ORDER BY id DESC LIMIT 1
$$;
-- The whole text, in django-cqrs's order of keys.
INSERT INTO t VALUES (1, 'a');
SELECT test_body();
UPDATE t SET v = 'b';
SELECT test_body();
SELECT cqrs_sync('t');
SELECT test_body();
DELETE FROM t;
SELECT test_body();
SELECT extract(epoch FROM (body::json ->> 'expires')::timestamptz - now()) BETWEEN 86300 AND 86500
	FROM cqrs.outbox ORDER BY id DESC LIMIT 1;
SELECT test_skip();

-- Correlation id: the value at commit; of a function where it is empty.
BEGIN;
SET LOCAL cqrs.correlation_id = 'request "1"';
INSERT INTO t VALUES (1, 'a');
COMMIT;
SET cqrs.correlation_id = 'session';
UPDATE t SET v = 'b';
RESET cqrs.correlation_id;
UPDATE t SET v = 'c';
SELECT test_messages();
\set VERBOSITY sqlstate
SELECT set_config('cqrs.correlation_id', repeat('x', 256), false);
\set VERBOSITY default
CREATE FUNCTION correlate(text, text, text, text) RETURNS text LANGUAGE sql STABLE
	AS $$SELECT concat_ws('-', $1, $2, $3, coalesce($4, 'none'))$$;
SET cqrs.correlation_function = 'public.correlate';
UPDATE t SET v = 'd';
SELECT cqrs_sync('t', NULL, 'replica');
SET cqrs.correlation_id = 'wins';
DELETE FROM t;
RESET cqrs.correlation_id;
SELECT test_messages();
-- Keys that are texts come without quotes; a strict function is not called
-- where there is no queue.
CREATE TABLE k (id text PRIMARY KEY);
SELECT cqrs_register('k');
INSERT INTO k VALUES ('a "key"');
CREATE FUNCTION correlate_strict(text, text, text, text) RETURNS text LANGUAGE sql STABLE STRICT
	AS $$SELECT 'called'$$;
SET cqrs.correlation_function = 'public.correlate_strict';
SELECT cqrs_sync('k');
SELECT cqrs_sync('k', NULL, 'replica');
SELECT test_messages();
SET cqrs.correlation_function = 'public.correlate';
DROP TABLE k;
CREATE OR REPLACE FUNCTION correlate(text, text, text, text) RETURNS text LANGUAGE sql STABLE
	AS $$SELECT repeat('x', 256)$$;
INSERT INTO t VALUES (2, 'lost');
SET cqrs.correlation_function = 'correlate';
INSERT INTO t VALUES (2, 'lost');
SET cqrs.correlation_function = 'public.nope';
INSERT INTO t VALUES (2, 'lost');
RESET cqrs.correlation_function;
SELECT test_messages();

-- Meta of a master, as the owner, with a pinned search_path.
CREATE ROLE regress_owner;
GRANT CREATE ON SCHEMA public TO regress_owner;
CREATE TABLE m (id int PRIMARY KEY, v text);
CREATE FUNCTION m_meta(m, text, jsonb, jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF $1.v = 'fail' THEN
		RAISE EXCEPTION 'no meta for this';
	ELSIF $1.v = 'none' THEN
		RETURN NULL;
	END IF;
	RETURN pg_catalog.jsonb_build_object('row', $1.v, 'signal', $2, 'v', $3 -> 'v', 'previous', $4,
		'user', current_user, 'path', pg_catalog.current_setting('search_path'));
END
$$;
ALTER TABLE m OWNER TO regress_owner;
SELECT cqrs_register('m', meta => 'm_meta', tracked_fields => '{v}');
INSERT INTO m VALUES (1, 'a');
UPDATE m SET v = 'b';
SELECT cqrs_sync('m');
UPDATE m SET v = 'none';
DELETE FROM m;
SELECT test_messages();
INSERT INTO m VALUES (5, 'fail');
SELECT current_user = session_user, current_setting('search_path');
SELECT cqrs_alter('m', '{"meta": null}');
DROP FUNCTION m_meta;

-- Meta of masters without one of their own.
CREATE FUNCTION any_meta(text, text, jsonb, jsonb) RETURNS jsonb LANGUAGE sql STABLE
	AS $$SELECT pg_catalog.jsonb_build_array($1, $2, $3 -> 'v', $4)$$;
SET cqrs.meta_function = 'any_meta';
INSERT INTO m VALUES (7, 'unqualified');
SET cqrs.meta_function = 'public.any_meta';
INSERT INTO m VALUES (7, 'x');
INSERT INTO t VALUES (7, 'y');
ALTER FUNCTION any_meta VOLATILE;
INSERT INTO m VALUES (8, 'volatile');
ALTER FUNCTION any_meta RENAME TO gone;
INSERT INTO m VALUES (8, 'gone');
ALTER FUNCTION gone RENAME TO any_meta;
RESET cqrs.meta_function;
SELECT test_messages();

-- Messages that do not expire.
ALTER SYSTEM SET cqrs.message_ttl = 0;
SELECT pg_reload_conf();
CREATE EXTENSION dblink;
SELECT test_await_setting('cqrs.message_ttl', '0');
DROP EXTENSION dblink;
\c
SET client_min_messages = error;
SHOW cqrs.message_ttl;
SELECT body::json ->> 'expires' IS NULL, body LIKE '%"expires":null,%' FROM cqrs.outbox ORDER BY id DESC LIMIT 1;
ALTER SYSTEM RESET cqrs.message_ttl;
SELECT pg_reload_conf();
DROP TABLE t, m;
-- A function that changes the correlation id changes none of this transaction.
CREATE FUNCTION meddling_meta(text, text, jsonb, jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
	PERFORM set_config('cqrs.correlation_id', 'meddled ' || repeat('x', 100), true);
	RETURN NULL;
END
$$;
CREATE TABLE g (id int PRIMARY KEY);
SELECT cqrs_register('g');
RESET cqrs.correlation_function;
SET cqrs.meta_function = 'public.meddling_meta';
BEGIN;
SET LOCAL cqrs.correlation_id = 'request "2"';
INSERT INTO g SELECT generate_series(1, 6);
COMMIT;
INSERT INTO g VALUES (7), (8);
SELECT test_messages();
DROP TABLE g;

-- JSON that jsonb cannot hold: what was to be made of it is in the error.
CREATE TABLE j (id int PRIMARY KEY, v json);
SELECT cqrs_register('j');
INSERT INTO j VALUES (1, '{"a": "\ud800"}');
RESET cqrs.meta_function;
CREATE FUNCTION j_serializer(j) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT $1.v::jsonb$$;
SELECT cqrs_alter('j', '{"serializer": "j_serializer"}');
INSERT INTO j VALUES (2, '{"a": "\u0000"}');
SELECT cqrs_alter('j', '{"serializer": null}');
CREATE FUNCTION j_meta(j, text, jsonb, jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT NULL::jsonb$$;
SELECT cqrs_alter('j', '{"meta": "j_meta"}');
INSERT INTO j VALUES (3, '{"a": "\u0000"}');
SELECT cqrs_alter('j', '{"meta": null}');
INSERT INTO j VALUES (3, '{"a": "\u0000"}');
SELECT signal_type, instance_pk, body ~ '\\u0000' FROM cqrs.outbox WHERE cqrs_id = 'j';
SELECT test_skip();
DROP TABLE j CASCADE;

DROP FUNCTION test_body, correlate, any_meta, meddling_meta;
REVOKE CREATE ON SCHEMA public FROM regress_owner;
DROP ROLE regress_owner;

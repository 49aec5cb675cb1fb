-- Hooks that are called while they run, or that try to make messages; the
-- settings of the session that they run in.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = notice;
SELECT test_skip();
CREATE ROLE regress_reentry;
CREATE SCHEMA reentry AUTHORIZATION regress_reentry;
SET ROLE regress_reentry;

-- A serializer in LANGUAGE sql that is called within itself.
CREATE TABLE reentry.u (id int PRIMARY KEY, v int);
SELECT cqrs_register('reentry.u', 'u');
INSERT INTO reentry.u VALUES (1, 1), (2, 2);
CREATE FUNCTION reentry.inner_json(r reentry.u) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
	RETURN public.cqrs_to_json(ROW(r.id, r.v - 1, r.cqrs_revision, r.cqrs_updated)::reentry.u, 'u')::jsonb - 'cqrs_updated';
END
$$;
CREATE FUNCTION reentry.json(r reentry.u) RETURNS jsonb STABLE LANGUAGE sql AS $$
	SELECT CASE WHEN r.v > 0 THEN jsonb_build_object('inner', reentry.inner_json(r)) ELSE '{}' END
		|| jsonb_build_object('v', r.v, 'x', repeat('x', 10))
$$;
SELECT cqrs_alter('u', '{"serializer": "reentry.json"}');
SELECT test_undated(cqrs_to_json(u, 'u')::text) FROM reentry.u ORDER BY id;
UPDATE reentry.u SET v = v + 1;
RESET ROLE;
SELECT test_messages();
SET ROLE regress_reentry;
-- Inside of it fails what the function catches, and then it is called again.
CREATE OR REPLACE FUNCTION reentry.inner_json(r reentry.u) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
	IF r.v = 1 THEN
		RAISE EXCEPTION 'innermost';
	END IF;
	RETURN public.cqrs_to_json(ROW(r.id, r.v - 1, r.cqrs_revision, r.cqrs_updated)::reentry.u, 'u')::jsonb - 'cqrs_updated';
EXCEPTION WHEN OTHERS THEN
	RETURN jsonb_build_object('caught', sqlerrm);
END
$$;
SELECT test_undated(cqrs_to_json(u, 'u')::text) FROM reentry.u ORDER BY id;
DO $$
DECLARE
	made text;
BEGIN
	FOR i IN 1..3 LOOP
		BEGIN
			SELECT string_agg(public.test_undated(public.cqrs_to_json(ROW(9, v, 0, now())::reentry.u, 'u')::text), ' ' ORDER BY v)
				INTO made FROM generate_series(0, i) v;
			RAISE NOTICE '%', made;
			SELECT public.cqrs_to_json(ROW(9, 1 / 0, 0, now())::reentry.u, 'u') INTO made;
		EXCEPTION WHEN division_by_zero THEN
			RAISE NOTICE 'division by zero';
		END;
	END LOOP;
END
$$;
-- An error that leaves the function itself in the middle.
CREATE OR REPLACE FUNCTION reentry.json(r reentry.u) RETURNS jsonb STABLE LANGUAGE sql AS $$
	SELECT jsonb_build_object('v', 6 / r.v, 'x', repeat('x', 10)) || (SELECT jsonb_build_object('n', count(*)) FROM generate_series(1, 6 / r.v))
$$;
DO $$
DECLARE
	made text;
BEGIN
	FOR i IN -2..2 LOOP
		BEGIN
			made := public.test_undated(public.cqrs_to_json(ROW(9, i, 0, now())::reentry.u, 'u')::text);
			RAISE NOTICE '%', made;
		EXCEPTION WHEN division_by_zero THEN
			RAISE NOTICE 'division by zero';
		END;
	END LOOP;
END
$$;
-- Without end.
CREATE OR REPLACE FUNCTION reentry.json(r reentry.u) RETURNS jsonb STABLE LANGUAGE sql AS $$
	SELECT jsonb_build_object('inner', public.cqrs_to_json(r, 'u'))
$$;
DO $$
BEGIN
	PERFORM public.cqrs_to_json(u, 'u') FROM reentry.u;
EXCEPTION WHEN statement_too_complex THEN
	RAISE NOTICE '%', sqlerrm;
END
$$;
CREATE OR REPLACE FUNCTION reentry.json(r reentry.u) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT jsonb_build_object('v', r.v)$$;
SELECT test_undated(cqrs_to_json(u, 'u')::text) FROM reentry.u ORDER BY id;

-- A condition that is evaluated within itself: the outer row stays the row.
CREATE TABLE reentry.t (id int PRIMARY KEY, name text);
CREATE FUNCTION reentry.looks(r reentry.t) RETURNS bool STABLE LANGUAGE plpgsql AS $$
BEGIN
	IF r.id > 1 THEN
		PERFORM count(*) FROM public.cqrs_diff_master('t', 'id = 1');
	END IF;
	RETURN true;
END
$$;
CREATE FUNCTION reentry.tells(name text) RETURNS bool STABLE LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '% of % bytes', left(name, 9), length(name);
	RETURN true;
END
$$;
INSERT INTO reentry.t SELECT i, 'name of ' || i FROM generate_series(1, 3) i;
SELECT cqrs_register('reentry.t', 't', sync_when => 'reentry.looks(t.*) AND reentry.tells(name)');
SELECT count(*) FROM cqrs_diff_master('t');
UPDATE reentry.t SET name = repeat(chr(64 + id), 6000);
SELECT count(*) FROM cqrs_diff_master('t');

-- TRUNCATE: functions that take part cannot make messages meanwhile.
CREATE TABLE reentry.w (id int PRIMARY KEY, v text);
CREATE FUNCTION reentry.flushes(r reentry.w) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
	RETURN jsonb_build_object('n', public.cqrs_flush(), 'id', r.id);
EXCEPTION WHEN read_only_sql_transaction THEN
	RETURN jsonb_build_object('error', sqlerrm);
END
$$;
SELECT cqrs_register('reentry.w', 'w', delete_data => 'reentry.flushes');
INSERT INTO reentry.w SELECT i, 'v' FROM generate_series(1, 5) i;
RESET ROLE;
SELECT test_skip();
SET ROLE regress_reentry;
BEGIN;
UPDATE reentry.w SET v = v || 'a' WHERE id < 4;
DELETE FROM reentry.w WHERE id = 4;
INSERT INTO reentry.w VALUES (10, 'new');
TRUNCATE reentry.w;
COMMIT;
RESET ROLE;
SELECT test_messages();
SET ROLE regress_reentry;
BEGIN;
INSERT INTO reentry.w VALUES (1, 'x');
SET TRANSACTION READ ONLY;
SELECT test_error('SELECT cqrs_flush()');
ROLLBACK;
BEGIN READ ONLY;
SELECT test_error('SELECT cqrs_flush()');
ROLLBACK;

-- The function of a generated column that writes to so many masters that what
-- is noted of the tables moves.
DO $$
BEGIN
	FOR i IN 1..40 LOOP
		EXECUTE format('CREATE TABLE reentry.z%s (id serial PRIMARY KEY)', i);
		PERFORM public.cqrs_register(format('reentry.z%s', i)::regclass, 'z' || i);
	END LOOP;
END
$$;
CREATE FUNCTION reentry.writes() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('reentry.go', true) = 'y' THEN
		PERFORM set_config('reentry.go', 'n', true);
		FOR i IN 1..40 LOOP
			EXECUTE format('INSERT INTO reentry.z%s DEFAULT VALUES', i);
		END LOOP;
	END IF;
	RETURN 1;
END
$$;
CREATE FUNCTION reentry.gen(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE
	x int;
BEGIN
	SELECT reentry.writes() INTO x;
	RETURN 7;
END
$$;
CREATE TABLE reentry.g (id int PRIMARY KEY, a int, b int, c int GENERATED ALWAYS AS (reentry.gen(a)) STORED);
SELECT cqrs_register('reentry.g', 'g', fields => '{id,b,c}', skip_unchanged => true);
INSERT INTO reentry.g (id, a, b) VALUES (1, 1, 1), (2, 2, 2);
BEGIN;
SET LOCAL reentry.go = 'y';
UPDATE reentry.g SET a = a + 1 WHERE id = 1;
UPDATE reentry.g SET b = 99 WHERE id = 1;
SELECT id, b, cqrs_revision FROM reentry.g WHERE id = 1;
COMMIT;
RESET ROLE;
SELECT test_skip();

-- What sync_when and hooks mean does not depend on the session.
SET ROLE regress_reentry;
CREATE TABLE reentry.s (id int PRIMARY KEY, d date, n text, a text[]);
CREATE FUNCTION reentry.s_json(r reentry.s) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
	RETURN jsonb_build_object('date', '05/04/2026'::text::date, 'array', '{NULL}'::text::text[], 'words', to_tsvector('the ' || 'cats')::text,
		'ident', quote_ident('id'), 'zone', ('2026-11-30 00:00 EST'::text::timestamptz)::text, 'xml', xmlelement(name x, 'a'::bytea)::text,
		'content', 'a'::text::xml::text, 'rls', current_setting('row_security'),
		'others', concat_ws(' ', current_setting('lc_numeric'), current_setting('lc_time'), current_setting('gin_fuzzy_search_limit')));
END
$$;
SELECT cqrs_register('reentry.s', 's', fields => '{id}',
	sync_when => $$d >= '05/04/2026' OR n = null OR n = 'secret' OR n LIKE 'x\%' OR a = '{NULL}' OR n = E'it\'s'
		OR n::xml IS DOCUMENT OR to_tsvector(n) @@ 'the'::tsquery$$);
SELECT cqrs_register('reentry.s', 's_json', serializer => 'reentry.s_json');
\set session 'SET ROLE regress_reentry; SET client_min_messages = error;'
\set dmy 'SET datestyle = ''iso, dmy'';'
\set nulls 'SET transform_null_equals = on; SET array_nulls = off;'
-- PostgreSQL 19 has no other string literals any more.
\set quotes 'DO $$BEGIN SET standard_conforming_strings = off; SET escape_string_warning = off; EXCEPTION WHEN OTHERS THEN NULL; END$$; SET backslash_quote = off;'
\set others 'SET xmloption = document; SET xmlbinary = hex; SET default_text_search_config = english; SET quote_all_identifiers = on; SET row_security = off; SET timezone_abbreviations = ''Australia''; SET lc_numeric = ''POSIX''; SET lc_time = ''POSIX''; SET gin_fuzzy_search_limit = 7;'
\c
:session
INSERT INTO reentry.s VALUES (1, '2026-04-10', NULL, NULL), (2, '2026-05-10', NULL, NULL), (3, NULL, NULL, NULL),
	(4, NULL, 'x%', NULL), (5, NULL, 'xyz', NULL), (6, NULL, NULL, ARRAY[NULL]::text[]), (7, NULL, NULL, ARRAY['NULL']),
	(8, NULL, 'it''s', NULL), (9, NULL, 'the cat', NULL);
RESET ROLE;
SELECT test_messages();
\c
:session
:dmy
:nulls
:quotes
:others
UPDATE reentry.s SET d = d;
RESET ROLE;
SELECT test_messages();
RESET standard_conforming_strings;

-- An owner whose code raises the error of a cancel, or one that OTHERS leaves
-- out besides, does not spoil the check of the others.
SELECT test_skip();
SET ROLE regress_reentry;
CREATE TABLE reentry.c (id int PRIMARY KEY);
CREATE FUNCTION reentry.cancels(x int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF session_user <> 'regress_reentry' AND current_setting('reentry.go', true) = 'cancel' THEN
		RAISE EXCEPTION 'not today' USING ERRCODE = 'query_canceled', HINT = 'Ask tomorrow.';
	END IF;
	ASSERT current_setting('reentry.go', true) IS DISTINCT FROM 'assert', 'not asserted';
	RETURN true;
END
$$;
SELECT cqrs_register('reentry.c', 'c', sync_when => 'reentry.cancels(1)');
RESET ROLE;
SELECT status, detail, remedy FROM cqrs_check() WHERE item = 'master c';
\c
SET reentry.go = 'cancel';
SELECT status, detail, remedy FROM cqrs_check() WHERE item = 'master c';
SET reentry.go = 'assert';
SELECT status, detail, remedy FROM cqrs_check() WHERE item = 'master c';
RESET reentry.go;
-- A cancel is one.
SET ROLE regress_reentry;
CREATE OR REPLACE FUNCTION reentry.cancels(x int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(60);
	RETURN true;
END
$$;
RESET ROLE;
SET statement_timeout = 100;
SELECT count(*) FROM cqrs_check();
RESET statement_timeout;

SET client_min_messages = error;
SELECT cqrs_unregister(cqrs_id) FROM cqrs.master WHERE relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'reentry'::regnamespace) \g /dev/null
DROP SCHEMA reentry CASCADE;
DROP ROLE regress_reentry;
SELECT test_skip();

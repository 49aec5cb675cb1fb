-- Values of all types in messages, whatever the settings of the session.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE TYPE pair AS (a int, "b c" text[]);
CREATE TABLE v (id int PRIMARY KEY);
SELECT cqrs_register('v');

-- The value of an expression in a message.
CREATE FUNCTION value(expression text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cqrs_alter('v', '{"fields": ["id"]}');
	ALTER TABLE v DROP COLUMN IF EXISTS x;
	PERFORM cqrs_alter('v', '{"fields": null}');
	EXECUTE format('CREATE TEMP TABLE value AS SELECT %s AS x', expression);
	EXECUTE format('ALTER TABLE v ADD COLUMN x %s', (
		SELECT format_type(atttypid, atttypmod) FROM pg_attribute
		WHERE attrelid = 'value'::regclass AND attname = 'x'));
	TRUNCATE v;
	INSERT INTO v (id, x) SELECT 1, x FROM value;
	DROP TABLE value;
	RETURN NULL;
END
$$;
CREATE PROCEDURE show(VARIADIC expressions text[]) LANGUAGE plpgsql AS $$
DECLARE
	expression text;
BEGIN
	FOREACH expression IN ARRAY expressions LOOP
		PERFORM value(expression);
		COMMIT;
		RAISE INFO '% => %', expression, (
			SELECT body::json -> 'instance_data' -> 'x' FROM cqrs.outbox
			WHERE signal_type = 'SAVE' ORDER BY id DESC LIMIT 1);
	END LOOP;
END
$$;
\set VERBOSITY terse
CALL show('true', 'false', '(-32768)::int2', '2147483647', '9223372036854775807',
	'(-9223372036854775808)', '5::positive', '3::float8', '0.1::float8',
	'1e300::float8', '''NaN''::float8', '''-Infinity''::float8', '0.1::float4', '1e20::float4',
	'''-0''::float8', '1.50::numeric', '123456789012345678901234567890.5', '''NaN''::numeric',
	'''Infinity''::numeric', '''-Infinity''::numeric', '0::numeric(5,2)', 'NULL::int');
CALL show('''text''::text', '''a"b\c/d''::text', 'E''\t\n\r\b\f\x01''::text', 'U&''\00E9\+01F600\2028''::text',
	'''ab''::char(5)', '''vc''::varchar(9)', '''Ci''::citext', '''n''::name', '''c''::"char"',
	'''sad''::mood', '''it''''s "ok"''::mood', '''''::text');
CALL show('''2024-02-29''::date', '''infinity''::date', '''-infinity''::date', '''0044-03-15 BC''::date',
	'''20000-01-01''::date', '''2024-02-29 01:02:03.4''::timestamp', '''2024-02-29 01:02:03''::timestamp',
	'''2024-02-29 01:02:03.456789+05:30''::timestamptz', '''infinity''::timestamptz',
	'''-infinity''::timestamptz', '''0044-03-15 01:02:03 BC''::timestamp', '''infinity''::timestamp',
	'''01:02:03.5''::time', '''01:02:03+02''::timetz', '''1 year 2 mons 3 days 04:05:06''::interval');
CALL show('''{"a":1,  "b": [null]}''::json', 'E''{"a":\n1,\r\n"b":"\\n"}''::json', '''{"b":1,"a":"x"}''::jsonb', '''null''::jsonb',
	'''a=>1, b=>NULL, "c d"=>"x\"y"''::hstore', '''A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11''::uuid',
	'''127.0.0.1''::inet', '''10.0.0.0/8''::inet', '''::1''::inet', '''10.0.0.0/8''::cidr', '''127.0.0.1/32''::cidr',
	'''08:00:2b:01:02:03''::macaddr', '''\x00ff''::bytea', '''1.5''::money', '''<a b="c"/>''::xml',
	'''101''::bit(3)', '''(1,2)''::point', '''a b''::tsvector',
	'''[1,5)''::int4range', '''empty''::int4range', '''[2024-01-01 00:00:00+00,)''::tstzrange', '''{[1,2),[5,6)}''::int4multirange');
CALL show('ARRAY[1,2,NULL]', 'ARRAY[[1,2],[3,4]]', '''{}''::int[]', '''[5:6]={1,2}''::int[]', 'ARRAY[''a"b'', ''NULL'', NULL]',
	'ARRAY[''2024-02-29''::date]', 'ARRAY[''infinity''::timestamptz]', 'ARRAY[1.5::float8, ''NaN'']', 'ARRAY[''{"a": 1}''::jsonb]',
	'ARRAY[ROW(1, ''{x,y}'')::pair]', 'ROW(1, ''{x,NULL}'')::pair', 'ROW(NULL, NULL)::pair', 'ARRAY[''\x01''::bytea]', 'ARRAY[''1 day''::interval]');

-- Keys.
CREATE TABLE key_text (id text PRIMARY KEY);
CREATE TABLE key_uuid (id uuid PRIMARY KEY);
CREATE TABLE key_date (id date PRIMARY KEY);
CREATE TABLE key_two (b text, a int, PRIMARY KEY (a, b));
SELECT cqrs_register(t) FROM unnest('{key_text,key_uuid,key_date,key_two}'::regclass[]) t;
SELECT test_skip();
INSERT INTO key_text VALUES ('a "b"');
INSERT INTO key_uuid VALUES ('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
INSERT INTO key_date VALUES ('2024-02-29');
INSERT INTO key_two VALUES ('x', 1);
DELETE FROM key_text;
DELETE FROM key_two;
SELECT test_messages();
DROP TABLE key_text, key_uuid, key_date, key_two;

-- Composites without some of their attributes, and without any.
CREATE TYPE rest AS (a int, b int);
ALTER TYPE rest DROP ATTRIBUTE a;
CREATE TYPE nothing AS ();
CREATE TABLE composed (id int PRIMARY KEY, r rest, n nothing);
SELECT cqrs_register('composed', fields => '{id,r,n}');
INSERT INTO composed VALUES (1, ROW(2), ROW());
SELECT test_messages();
DROP TABLE composed;
DROP TYPE rest, nothing;

-- The row of a parked DELETE is read back as it was, also where its types have casts
-- to JSON, and whatever the settings of the session are.
CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE sql AS $$SELECT '{"not": "a mood"}'::json$$;
CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
CREATE DOMAIN moods AS mood[];
CREATE TABLE kept (id int PRIMARY KEY, h hstore, hs hstore[], a int[], p pair, ps pair[], m mood, ms moods,
	r tstzrange, t timestamptz[], i interval, b bytea, f float8, n numeric, ok boolean, d positive, c char(5), cl regclass,
	j json, jb jsonb, "o""dd" text, nothing text);
CREATE FUNCTION kept_texts(kept) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM 1 / current_setting('types.divisor')::int;
	RETURN jsonb_build_object('row', ($1.id, $1.h, $1.hs, $1.a, $1.p, $1.ps, $1.m, $1.ms, $1.r, $1.t, $1.i, $1.b, $1.f,
		$1.n, $1.ok, $1.d, $1.c, $1.cl, $1.j, $1.jb, $1."o""dd", $1.nothing)::text);
END
$$;
SELECT cqrs_register('kept', delete_data => 'kept_texts', on_error => 'park');
SELECT test_skip();
CREATE TABLE kept_values AS SELECT 1 AS id, 'a=>1, b=>NULL'::hstore AS h, ARRAY['x=>y'::hstore, NULL] AS hs, '[5:6]={1,NULL}'::int[] AS a,
	ROW(1, '{x,NULL,"y \"z"}')::pair AS p, ARRAY[ROW(2, NULL)::pair] AS ps, 'sad'::mood AS m, '{sad,"it''s \"ok\""}'::moods AS ms,
	tstzrange('2024-02-29 01:02:03+00', 'infinity') AS r, ARRAY['-infinity'::timestamptz] AS t, '-1 year 2 days -3:00'::interval AS i,
	'\x00ff'::bytea AS b, 'NaN'::float8 AS f, 'Infinity'::numeric AS n, false AS ok, 5::positive AS d, ' b'::char(5) AS c, 'kept'::regclass AS cl,
	'{"a":  [1, "}"]}'::json AS j, '"text"'::jsonb AS jb, E'"\\\n{},' AS "o""dd", NULL::text AS nothing;
INSERT INTO kept SELECT * FROM kept_values;
SET types.divisor = 1;
DELETE FROM kept;
INSERT INTO kept SELECT * FROM kept_values;
SET types.divisor = 0;
SET datestyle = 'SQL, DMY';
SET timezone = 'Asia/Kathmandu';
DELETE FROM kept;
SELECT count(*) FROM cqrs.parked;
RESET timezone;
RESET datestyle;
SET intervalstyle = iso_8601;
SET types.divisor = 1;
SELECT cqrs_retry_parked('kept');
RESET intervalstyle;
SELECT body::json #>> '{instance_data,custom,row}' FROM cqrs.outbox, test_mark
	WHERE outbox.id > test_mark.id AND signal_type = 'DELETE' ORDER BY outbox.id;
SELECT test_skip();
DROP TABLE kept, kept_values CASCADE;
DROP DOMAIN moods;
DROP FUNCTION mood_json CASCADE;

-- What has to be escaped is found wherever it stands, in a text of any length.
CREATE TABLE escaped (id int PRIMARY KEY, t text);
SELECT cqrs_register('escaped');
SELECT count(*), count(*) FILTER (WHERE cqrs_to_json(ROW(1, t, 0, now())::escaped, 'escaped')::jsonb ->> 't' = t)
FROM generate_series(0, 40) before, generate_series(0, 40) after,
	unnest(ARRAY[E'\x01', E'\n', E'\x1f', ' ', '"', '!', '\', 'é']) c,
	concat(repeat('x', before), c, repeat('y', after)) t;
DROP TABLE escaped;

-- Settings of the session change nothing, and are as before afterwards.
CREATE TABLE s (id int PRIMARY KEY, f4 float4, f8 float8, d date, ts timestamp, tz timestamptz,
	i interval, b bytea, r tstzrange, a timestamptz[], c pair, fa float8[], cl regclass, ty regtype[]);
SELECT cqrs_register('s');
CREATE TABLE sample AS SELECT 0.1::float4 AS f4, 0.1::float8 + 0.2 AS f8, '2024-02-29'::date AS d,
	'2024-02-29 01:02:03.5'::timestamp AS ts, '2024-02-29 01:02:03.5+00'::timestamptz AS tz,
	'-1 year 2 days -3:00'::interval AS i, '\x0001ff'::bytea AS b,
	tstzrange('2024-02-29 01:02:03+00', 'infinity') AS r, ARRAY['2024-02-29 01:02:03+00'::timestamptz] AS a,
	ROW(1, '{x}')::pair AS c, ARRAY[0.1::float8 + 0.2] AS fa, 's'::regclass AS cl, '{pair,text}'::regtype[] AS ty;
INSERT INTO s SELECT 1, * FROM sample;
SET datestyle = 'SQL, DMY';
SET intervalstyle = iso_8601;
SET timezone = 'Asia/Kathmandu';
SET extra_float_digits = -10;
SET bytea_output = escape;
INSERT INTO s SELECT 2, * FROM sample;
SELECT name, setting FROM pg_settings WHERE name IN
	('DateStyle', 'IntervalStyle', 'TimeZone', 'extra_float_digits', 'bytea_output') ORDER BY name COLLATE "C";
BEGIN;
SET LOCAL datestyle = 'German';
SET LOCAL search_path = pg_catalog;
INSERT INTO public.s SELECT 3, * FROM public.sample;
SELECT public.cqrs_bulk_dump('s') LIMIT 0;
SHOW search_path;
COMMIT;
SHOW datestyle;
SHOW search_path;
SELECT count(DISTINCT line) FROM (SELECT test_undated(replace(cqrs_bulk_dump, '"id":' || substr(cqrs_bulk_dump, 7, 1), '')) AS line
	FROM cqrs_bulk_dump('s') WHERE cqrs_bulk_dump <> 's') d;
RESET ALL;
SET client_min_messages = error;
SELECT count(*), count(DISTINCT data) FROM (
	SELECT test_undated(regexp_replace(body::json ->> 'instance_data', '"id":.,', '')) AS data
	FROM cqrs.outbox WHERE cqrs_id = 's') o;
SELECT test_messages() LIMIT 1;
SELECT test_skip();
DROP TABLE v, s, sample;
DROP PROCEDURE show;
DROP FUNCTION value;
DROP TYPE pair, mood;
DROP DOMAIN positive;
DROP EXTENSION hstore, citext;

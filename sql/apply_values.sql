-- Values of all types, from messages into rows.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN filled AS text NOT NULL;
CREATE DOMAIN pairs AS int[] CHECK (array_length(VALUE, 1) = 2);
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE TYPE pair AS (a int, "b c" text[]);
CREATE DOMAIN tick AS timestamp(3) CHECK (VALUE < '2100-01-01');
CREATE DOMAIN ticks AS timestamp(0)[];
CREATE TYPE ticks_between AS RANGE (subtype = tick);
CREATE TYPE visit AS (gone int, who text, at tick, days timestamp[], during tsrange, day date);
ALTER TYPE visit DROP ATTRIBUTE gone;
CREATE TYPE visits AS (first visit, others visit[]);

-- What a column of a type becomes for each value of a list of JSON.
CREATE FUNCTION try(type text, jsons text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	json text;
	value text;
BEGIN
	EXECUTE format('CREATE TABLE v (id int PRIMARY KEY, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL, x %s)', type);
	PERFORM cqrs_register_replica('v');
	FOREACH json IN ARRAY jsons LOOP
		BEGIN
			PERFORM cqrs_apply(ROW('SYNC', 'v', format('{"id":1,"cqrs_revision":1,"cqrs_updated":"2026-11-23T00:00:00Z","x":%s}', json),
				NULL, '1', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message);
			SELECT coalesce(x::text, 'NULL') INTO value FROM v;
		EXCEPTION WHEN OTHERS THEN
			value := SQLSTATE || ' ' || SQLERRM;
		END;
		RETURN NEXT format('%s: %s => %s', type, json, value);
	END LOOP;
	PERFORM cqrs_unregister_replica('v');
	DROP TABLE v;
END
$$;
SET TimeZone = 'Asia/Kathmandu';
SET DateStyle = 'German';
SET IntervalStyle = 'sql_standard';
SELECT try('int', '{1,-1,2147483647,-2147483648,2147483648,5.0,5.5,1e3,1E-3,12345678901234567890,"\"5\"","\" 5 \"","\"5.0\"","\"x\"","\"\"",true,"null",[],"{}","\"1\\u0030\""}');
SELECT try('smallint', '{32767,-32768,32768,1.0}');
SELECT try('bigint', '{9223372036854775807,-9223372036854775808,9223372036854775808,999999999999999999,1e18,1e19,9007199254740993.0}');
SELECT try('numeric', '{1.50,"\"1.50\"",12345678901234567890.12345678901234567890,1e-20,"\"NaN\"","\"Infinity\"","\"x\"","null"}');
SELECT try('numeric(5,2)', '{1.555,1000}');
SELECT try('float8', '{3.0,3,0.1,"\"0.1\"","\"NaN\"","\"Infinity\"","\"-Infinity\"",1e400,"\"x\""}');
SELECT try('real', '{0.1,1e20,1e39}');
SELECT try('boolean', '{true,false,0,1,2,"\"t\"","\"True\"","\"False\"","\"1\"","\"maybe\"","null"}');
SELECT try('text', '{"\"a\"","\"\"","\"a\\\"b\\\\c\\/d\\n\\u00e9\\ud83d\\ude00\"",1.50,true,"[1, \"a\"]","{\"a\": 1}","\"\\u0000\"","\"\\ud83d\"","\"\\ude00\\ud83d\"","null"}');
SELECT try('varchar(3)', '{"\"abc\"","\"abcd\"","\"abc \""}');
SELECT try('varchar', '{"\"abc\""}');
SELECT try('char(3)', '{"\"ab\""}');
SELECT try('citext', '{"\"Ab\""}');
SELECT try('timestamptz', '{"\"2024-02-29T01:02:03Z\"","\"2024-02-29 01:02:03+00\"","\"2024-02-29 01:02:03+0000\"","\"2024-02-29 01:02:03.5+00:00\"","\"2024-02-29 01:02:03\"","\"2024-02-29 01:02\"","\"2024-02-29 01:02:03.1234567-05:30\"","\"infinity\"","\"0044-03-15 01:02:03+00:00 BC\"","\"9999-12-31 23:59:59.999999+00:00\"","\"12024-02-29 01:02:03+00\"","\"2024-02-29\"","\"2024-02-30 01:02:03\"","\"2024-02-29 23:59:60Z\"",1,"null"}');
SELECT try('timestamptz(0)', '{"\"2024-02-29T01:02:03.5Z\""}');
SELECT try('timestamptz(3)', '{"\"2024-02-29T01:02:03.4565+02:00\"","\"2024-02-29T01:02:60.4565+00:53:28\"","\"infinity\""}');
SELECT try('timestamp', '{"\"2024-02-29T01:02:03\"","\"2024-02-29T01:02:03.25+02:00\"","\"2024-02-29 01:02:03Z\"","\"-infinity\"","\"1890-01-01T10:00:00+00:53:28\"","\"2024-02-29T23:59:60+02:00\"","\"2024-02-29T23:59:60\"","\"12024-02-29T01:02:03.1234567+02:00\"","\"12024-02-29T01:02:03\"","\"0044-03-15 01:02:03+02:00 BC\"","\"0044-03-15 01:02:03 BC\"","\"2024-02-29T24:00:00+02:00\"","\"2024-02-29T10:00:00 +02\"","\"2024-02-29 10:00 Europe/Paris\"","\"2024-02-29\"","\"2024-02-29T10:00:00+15:59\"","\"2024-02-29T10:00:00+16:00\"","\"294276-12-31T23:59:59-01:00\"","\"2024-02-30T01:02:03+02:00\"","\"x\"",1}');
SELECT try('timestamp(3)', '{"\"2024-02-29T01:02:03.4565+02:00\"","\"2024-02-29T01:02:03.4565\"","\"2024-02-29T01:59:59.9999999-02:00\"","\"1969-12-31T23:59:59.1235+02:00\"","\"2024-02-29T23:59:60.4565+02:00\"","\"0044-03-15 01:02:03.4565+02:00 BC\"","\"infinity\"","\"-infinity\"","\"12024-02-29T01:02:03.4565+02:00\""}');
SELECT try('timestamp(0)', '{"\"2024-02-29T10:00:00.5+02:00\"","\"2024-02-29T10:00:00.499999+02:00\""}');
SELECT try('timestamp[]', '{"[\"2024-02-29T10:00:00+02:00\", [\"x\"]]","[\"2024-02-29T10:00:00+02:00\", null, \"2024-02-29T10:00:00+00:53:28\"]","\"[2:3]={2024-02-29T10:00:00+02:00,NULL}\"","\"{{\\\"2024-02-29 10:00:00.123456\\\"},{infinity}}\"","\"{}\"","\"{x}\""}');
SELECT try('timestamp(0)[]', '{"[\"2024-02-29T10:00:00.5+02:00\"]","\"{2024-02-29T10:00:00.5+02:00,2024-02-29T10:00:00}\""}');
SELECT try('tick', '{"\"2024-02-29T10:00:00.1235+02:00\"","\"2100-01-01T01:00:00+02:00\"","\"2099-12-31T23:00:00-02:00\"","null"}');
SELECT try('tick[]', '{"[\"2024-02-29T10:00:00.1235+02:00\"]","\"{2024-02-29T10:00:00.1235+02:00,NULL}\"","\"{2099-12-31T23:00:00-02:00}\""}');
SELECT try('ticks', '{"[\"2024-02-29T10:00:00.5+02:00\"]","\"{2024-02-29T10:00:00.5+02:00}\""}');
SELECT try('tsrange', '{"\"[2024-02-29T10:00:00+02:00,2024-02-29 10:00:00]\"","\"(,0044-03-15 01:02:03+02:00 BC)\"","\"[2024-02-29T10:00:00.123456,infinity]\"","\"empty\"","\"[2024-02-29T10:00:00+02:00,2024-02-29T08:30:00+01:00]\"","\"x\""}');
SELECT try('tsrange[]', '{"[\"[2024-02-29T10:00:00+02:00,)\"]","\"{\\\"[2024-02-29T10:00:00+02:00,)\\\"}\""}');
SELECT try('tsmultirange', '{"\"{[2024-02-29T10:00:00+02:00,2024-02-29T10:00:00],[2025-01-01,)}\""}');
SELECT try('ticks_between', '{"\"[2024-02-29T10:00:00.1235+02:00,2024-02-29T10:00:00]\"","\"[,2099-12-31T23:00:00-02:00]\""}');
SELECT try('visit', '{"{\"who\": \"x\", \"at\": \"2024-02-29T10:00:00.1235+02:00\", \"days\": [\"2024-02-29T10:00:00+02:00\"], \"during\": \"[2024-02-29T10:00:00+02:00,)\", \"day\": \"2024-02-29\"}","\"(\\\"\\\",2024-02-29T10:00:00.1235+02:00,{2024-02-29T10:00:00+02:00},\\\"[2024-02-29T10:00:00+02:00,)\\\",2024-02-29)\"","\"(,,,,)\"","\"(,,,)\""}');
SELECT try('visits', '{"{\"first\": {\"at\": \"2024-02-29T10:00:00+02:00\"}, \"others\": [{\"at\": \"2024-02-29T10:00:00+02:00\"}]}","{\"first\": \"(\\\"a \\\\\\\"b\\\\\\\"\\\",2024-02-29T10:00:00+02:00,,,)\"}","\"(\\\"(,2024-02-29T10:00:00+02:00,,,)\\\",\\\"{\\\"\\\"(,2024-02-29T10:00:00+02:00,,,)\\\"\\\"}\\\")\""}');
SELECT try('date', '{"\"2024-02-29\"","\"0044-03-15 BC\"","\"2024-02-30\"","\"01.02.2024\"","\"2024-02-29T00:00:00Z\"","\"2024-02-29T23:00:00-05:00\"",20240229}');
SELECT try('time', '{"\"01:02\"","\"01:02:03\"","\"01:02:03.5\"","\"01:02:03+02\""}');
SELECT try('timetz', '{"\"01:02:03\"","\"01:02:03+02\""}');
SELECT try('interval', '{"\"1 day 02:03:00\"","\"P1DT2H3M\"","\"1 year 2 mons 3 days 04:05:06\"",5}');
SELECT try('uuid', '{"\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"","\"A0EEBC999C0B4EF8BB6D6BB9BD380A11\"","\"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}\"","\"x\""}');
SELECT try('jsonb', '{"{\"a\":  1}","[1]","\"\\\"a\\\"\"",1,true,"null","\"\\u0000\""}');
SELECT try('json', '{"{\"a\":  1}","\"\\\"a\\\"\"","null","\"\\u0000\""}');
SELECT try('jsonb NOT NULL', '{"null"}');
SELECT try('int[]', '{"[1,2,null]","[[1,2],[3,4]]","[[1,2],[3]]","[1,[2]]","[[1],2]","[]","[[]]","[[],[]]","[[[]]]","[[[[[[[1]]]]]]]","[1.0]","\"{1,2}\"","\"[5:6]={1,2}\"",1,"[\"x\"]"}');
SELECT try('text[]', '{"[\"a\\\"b\", \"NULL\", null, \"\", \"a,b\"]","[1, true, {\"a\": 1}]"}');
SELECT try('varchar(2)[]', '{"[\"ab\", \"abc\"]"}');
SELECT try('jsonb[]', '{"[{\"a\": 1}, [1, 2], null]"}');
SELECT try('date[]', '{"[\"2024-02-29\"]"}');
SELECT try('hstore', '{"{\"a\": \"1\", \"b\": null, \"c d\": \"x\\\"y\\\\\", \"a\": \"2\"}","{}","\"a=>1\"","{\"n\": 1, \"o\": {\"p\": [1]}}"}');
-- Of equal keys the last one counts, however many there are.
SELECT split_part(try('hstore', ARRAY[format('{%s,"a":0,"k":"last"}', string_agg(format('"k":%s', i), ','))]), ' => ', 2)
	FROM generate_series(1, 20) i;
SELECT try('bytea', '{"\"\\\\x00ff\"","\"\\\\x0\"","\"abc\""}');
SELECT try('mood', '{"\"sad\"","\"it''s \\\"ok\\\"\"","\"happy\"","null"}');
SELECT try('positive', '{1,0,"null",1.0}');
SELECT try('filled', '{"\"a\"","null"}');
SELECT try('pairs', '{"[1,2]","[1]","null"}');
SELECT try('positive[]', '{"[1,2]","[1,0]"}');
SELECT try('int4range', '{"\"[1,5)\"","\"empty\"","\"[5,1]\""}');
SELECT try('int4multirange', '{"\"{[1,2),[5,6)}\""}');
SELECT try('pair', '{"{\"a\": 1, \"b c\": [\"x\", null]}","{\"b c\": null, \"z\": 1}","{}","\"(1,\\\"{x,y}\\\")\"","{\"a\": \"x\"}"}');
SELECT try('pair[]', '{"[{\"a\": 1, \"b c\": []}]"}');
SELECT try('inet', '{"\"127.0.0.1\"","\"10.0.0.0/8\"","\"::1\""}');
SELECT try('macaddr', '{"\"08:00:2b:01:02:03\""}');
SELECT try('bit(3)', '{"\"101\"","\"1\""}');
SELECT try('xml', '{"\"<a b=\\\"c\\\"/>\"","\"text\""}');
SELECT try('regclass', '{"\"pg_class\"","\"public.test_mark\""}');
RESET ALL;
SET client_min_messages = error;

-- Bare words of Python's json.
CREATE TABLE v (id int PRIMARY KEY, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL, f float8, n numeric, a float4[], j jsonb, t text);
SELECT cqrs_register_replica('v');
SELECT cqrs_apply(cqrs.parse_message('{"signal_type":"SAVE","cqrs_id":"v","instance_pk":1,"instance_data":{"id":1,"cqrs_revision":1,"cqrs_updated":"2026-11-23T00:00:00Z",
	"f":NaN,"n":-Infinity,"a":[Infinity,1],"j":{"x":NaN},"t":NaN}}'));
SELECT f, n, a, j, t FROM v;
SELECT cqrs_unregister_replica('v');
DROP TABLE v;

-- What our masters send comes back as the same value: each type of test "types".
CREATE TABLE sent (id int PRIMARY KEY, x1 boolean, x2 int2, x3 int8, x4 positive, x5 float8, x6 float4, x7 numeric, x8 numeric(5,2), x9 text, x10 char(5),
	x11 varchar(9), x12 citext, x13 name, x14 "char", x15 mood, x16 date, x17 timestamp, x18 timestamptz, x19 time, x20 timetz, x21 interval,
	x22 json, x23 jsonb, x24 hstore, x25 uuid, x26 inet, x27 cidr, x28 macaddr, x29 bytea, x30 money, x31 xml, x32 bit(3), x33 point, x34 tsvector,
	x35 int4range, x36 tstzrange, x37 int4multirange, x38 int[], x39 text[], x40 date[], x41 timestamptz[], x42 float8[], x43 jsonb[], x44 pair[],
	x45 pair, x46 bytea[], x47 interval[], x48 numeric, x49 regclass, x50 regtype[], x51 pairs, x52 oid, x53 varbit, x54 tsquery, x55 pg_lsn, x56 box[]);
SELECT cqrs_register('sent');
CREATE TABLE received (LIKE sent INCLUDING INDEXES INCLUDING DEFAULTS);
INSERT INTO sent (id) VALUES (1);
INSERT INTO sent VALUES (2, true, -32768, -9223372036854775808, 5, 0.1, 0.1, 123456789012345678901234567890.5, 0, E'\t\n\r\b\f\x01"\\/é😀', 'ab',
	'vc', 'Ci', 'n', 'c', 'it''s "ok"', '2024-02-29', '2024-02-29 01:02:03.4', '2024-02-29 01:02:03.456789+05:30', '01:02:03.5', '01:02:03+02',
	'-1 year 2 mons 3 days -04:05:06', '{"a":1,  "b": [null]}', '{"b":1,"a":"x"}', 'a=>1, b=>NULL, "c d"=>"x\"y"', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
	'127.0.0.1', '10.0.0.0/8', '08:00:2b:01:02:03', '\x00ff', '1.5', '<a b="c"/>', '101', '(1,2)', 'a b',
	'[1,5)', '[2024-01-01 00:00:00+00,)', '{[1,2),[5,6)}', '{{1,2},{3,4}}', ARRAY['a"b', 'NULL', NULL, ''], '{2024-02-29}', '{2024-02-29 01:02:03+00}', '{1.5,NaN}',
	ARRAY['{"a": 1}'::jsonb, '[1]'], ARRAY[ROW(1, '{x,y}')::pair], ROW(1, '{x,NULL}'), ARRAY['\x01'::bytea], ARRAY['1 day'::interval], 'NaN',
	'public.sent', '{pair,text}', '{1,2}', 4294967295, '10101', 'a & b', '16/B374D848', '{(1,2),(3,4);(5,6),(7,8)}');
INSERT INTO sent (id, x5, x6, x7, x9, x16, x17, x35, x38, x45) VALUES
	(3, '-Infinity', 1e20, 'Infinity', '', '0044-03-15 BC', '0044-03-15 01:02:03 BC', 'empty', '{}', ROW(NULL, NULL));
SELECT cqrs_unregister('sent');
SELECT cqrs_register('sent', 'received');
SELECT cqrs_register_replica('received');
SELECT cqrs_apply(ROW('SAVE', 'received', cqrs_to_json(s, 'received'), NULL, s.id::text::json, NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message) FROM sent s ORDER BY id;
SELECT id, s::text = r::text AS same, s *= r AS identical FROM sent s JOIN received r USING (id) ORDER BY id;
SELECT cqrs_unregister('received');
SELECT cqrs_unregister_replica('received');
DROP TABLE sent, received;
DROP FUNCTION try;
DROP TYPE pair, mood, visits, visit, ticks_between;
DROP DOMAIN positive, filled, pairs, tick, ticks;
DROP EXTENSION hstore, citext;

-- The messages of recorded flows of django-cqrs 27.0.0, byte for byte but for
-- the times: golden() prints the difference when there is one.  Recorded keys of
-- previous_data had no order; here they are in that of the columns.  The order
-- of keys in meta is jsonb's.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE FUNCTION golden_normal(message text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT regexp_replace(substring(message FROM '^(.*"meta":)'),
		'"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d{6})?\+00:00"(?=[,}]+("previous|"name|"author|"a"|"meta|$))',
		'"\1"', 'g') || substring(message FROM '"meta":(.*)}$')::jsonb
$$;
CREATE FUNCTION golden(VARIADIC recorded text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	bodies text[];
BEGIN
	SELECT array_agg(concat_ws(' ', CASE WHEN queue IS NULL THEN cqrs_id
			ELSE 'cqrs.' || queue || '.' || cqrs_id END, body) ORDER BY id) INTO bodies
		FROM cqrs.outbox WHERE id > (SELECT id FROM test_mark);
	PERFORM test_skip();
	SELECT array_agg(golden_normal(b) ORDER BY n) INTO bodies
		FROM unnest(bodies) WITH ORDINALITY AS u(b, n);
	SELECT array_agg(golden_normal(b) ORDER BY n) INTO recorded
		FROM unnest(recorded) WITH ORDINALITY AS u(b, n);
	IF bodies = recorded THEN
		RETURN NEXT 'as recorded';
	ELSE
		RETURN NEXT 'got      ' || bodies::text;
		RETURN NEXT 'expected ' || recorded::text;
	END IF;
END
$$;
CREATE TABLE basic (id int PRIMARY KEY, cqrs_revision int NOT NULL DEFAULT 0,
	cqrs_updated timestamptz NOT NULL DEFAULT now(), name text, num int);
CREATE TABLE book (id int PRIMARY KEY, cqrs_revision int NOT NULL DEFAULT 0,
	cqrs_updated timestamptz NOT NULL DEFAULT now(), author_id int, pub_id uuid, ch_id text, title text);
CREATE TABLE metam (id int PRIMARY KEY, cqrs_revision int NOT NULL DEFAULT 0,
	cqrs_updated timestamptz NOT NULL DEFAULT now(), name text);
CREATE TABLE subset (id int PRIMARY KEY, cqrs_revision int NOT NULL DEFAULT 0,
	cqrs_updated timestamptz NOT NULL DEFAULT now(), a text, b int, c text);
CREATE TABLE subset_plus (LIKE subset INCLUDING ALL);
CREATE TABLE tracked_list (id int PRIMARY KEY, cqrs_revision int NOT NULL DEFAULT 0,
	cqrs_updated timestamptz NOT NULL DEFAULT now(), name text, num int, author_id int,
	"when" timestamptz, u uuid, dec numeric, t time);
SELECT cqrs_register('basic');
SELECT cqrs_register('book', field_map => '{"author_id": "author", "pub_id": "pub", "ch_id": "ch"}');
SELECT cqrs_register('subset', fields => '{id,a,b}');
SELECT cqrs_register('subset_plus', fields => '{id,cqrs_revision,cqrs_updated,a}');
SELECT cqrs_register('tracked_list', tracked_fields => '{name,author_id,when,u,dec}',
	field_map => '{"author_id": "author"}');
SELECT test_skip();

-- basic.create
INSERT INTO basic (id, name, num) VALUES (1, 'n1', 1);
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:02.814972+00:00","name":"n1","num":1},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:02+00:00","meta":{}}$g$);

-- basic.update
UPDATE basic SET name = 'n2' WHERE id = 1;
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":1,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:02.989538+00:00","name":"n2","num":1},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:02+00:00","meta":{}}$g$);

-- basic.update_nochange
UPDATE basic SET name = name WHERE id = 1;
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":1,"cqrs_revision":2,"cqrs_updated":"2026-11-23 05:45:03.157030+00:00","name":"n2","num":1},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:03+00:00","meta":{}}$g$);

-- atomic.create_then_2_saves
BEGIN;
INSERT INTO basic (id, name, num) VALUES (2, 'a', 5);
UPDATE basic SET name = 'a1' WHERE id = 2;
UPDATE basic SET name = 'a2' WHERE id = 2;
COMMIT;
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":2,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:03.641195+00:00","name":"a2","num":5},"previous_data":null,"instance_pk":2,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:03+00:00","meta":{}}$g$);

-- delete.autocommit
UPDATE basic SET cqrs_revision = 9 WHERE id = 1;
SELECT test_skip();
DELETE FROM basic WHERE id = 1;
SELECT golden($g$basic {"signal_type":"DELETE","cqrs_id":"basic","instance_data":{"id":1,"cqrs_revision":10,"cqrs_updated":"2026-11-23 05:45:05.807505+00:00"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:05+00:00","meta":{}}$g$);

-- delete.atomic_two
INSERT INTO basic (id) VALUES (3), (4);
SELECT test_skip();
BEGIN;
DELETE FROM basic WHERE id = 3;
DELETE FROM basic WHERE id = 4;
COMMIT;
SELECT golden($g$basic {"signal_type":"DELETE","cqrs_id":"basic","instance_data":{"id":3,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:05.983166+00:00"},"previous_data":null,"instance_pk":3,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:05+00:00","meta":{}}$g$,
	$g$basic {"signal_type":"DELETE","cqrs_id":"basic","instance_data":{"id":4,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:05.983748+00:00"},"previous_data":null,"instance_pk":4,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:05+00:00","meta":{}}$g$);

-- delete.queryset
INSERT INTO basic (id) VALUES (9);
SELECT test_skip();
DELETE FROM basic WHERE id = 9;
SELECT golden($g$basic {"signal_type":"DELETE","cqrs_id":"basic","instance_data":{"id":9,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:07.149827+00:00"},"previous_data":null,"instance_pk":9,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:07+00:00","meta":{}}$g$);

-- bulk_create.autocommit
INSERT INTO basic (id, name, num) VALUES (16, 'b1', 1), (17, 'b2', 2);
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":16,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:09.123505+00:00","name":"b1","num":1},"previous_data":null,"instance_pk":16,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:09+00:00","meta":{}}$g$,
	$g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":17,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:09.123533+00:00","name":"b2","num":2},"previous_data":null,"instance_pk":17,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:09+00:00","meta":{}}$g$);

-- bulk_create.atomic
BEGIN;
INSERT INTO basic (id, name, num) VALUES (18, 'b3', 1), (19, 'b4', 2);
COMMIT;
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":18,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:09.292000+00:00","name":"b3","num":1},"previous_data":null,"instance_pk":18,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:09+00:00","meta":{}}$g$,
	$g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":19,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:09.292032+00:00","name":"b4","num":2},"previous_data":null,"instance_pk":19,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:09+00:00","meta":{}}$g$);

-- sync.instance
UPDATE basic SET name = 'bu3', num = 2, cqrs_revision = 2 WHERE id = 16;
SELECT test_skip();
SELECT cqrs_sync(b) FROM basic b WHERE id = 16;
SELECT golden($g$basic {"signal_type":"SYNC","cqrs_id":"basic","instance_data":{"id":16,"cqrs_revision":2,"cqrs_updated":"2026-11-23 05:45:09.786944+00:00","name":"bu3","num":2},"previous_data":null,"instance_pk":16,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:10+00:00","meta":{}}$g$);

-- sync.instance_queue
SELECT cqrs_sync('basic', 'id = 16', 'replica_q');
SELECT golden($g$cqrs.replica_q.basic {"signal_type":"SYNC","cqrs_id":"basic","instance_data":{"id":16,"cqrs_revision":2,"cqrs_updated":"2026-11-23 05:45:09.786944+00:00","name":"bu3","num":2},"previous_data":null,"instance_pk":16,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:10+00:00","meta":{}}$g$);

-- sync.instance_in_atomic
BEGIN;
SELECT cqrs_sync('basic', 'id = 16');
COMMIT;
SELECT golden($g$basic {"signal_type":"SYNC","cqrs_id":"basic","instance_data":{"id":16,"cqrs_revision":2,"cqrs_updated":"2026-11-23 05:45:09.786944+00:00","name":"bu3","num":2},"previous_data":null,"instance_pk":16,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:10+00:00","meta":{}}$g$);

-- fk.int
INSERT INTO book (id, author_id, title) VALUES (1, 1, 't');
SELECT golden($g$book {"signal_type":"SAVE","cqrs_id":"book","instance_data":{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:17.842719+00:00","author":1,"pub":null,"ch":null,"title":"t"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:17+00:00","meta":{}}$g$);

-- fk.char_target
INSERT INTO book (id, ch_id, title) VALUES (2, 'c1', 't');
SELECT golden($g$book {"signal_type":"SAVE","cqrs_id":"book","instance_data":{"id":2,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:18.006418+00:00","author":null,"pub":null,"ch":"c1","title":"t"},"previous_data":null,"instance_pk":2,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:18+00:00","meta":{}}$g$);

-- fk.null
INSERT INTO book (id, title) VALUES (3, 't');
SELECT golden($g$book {"signal_type":"SAVE","cqrs_id":"book","instance_data":{"id":3,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:18.169405+00:00","author":null,"pub":null,"ch":null,"title":"t"},"previous_data":null,"instance_pk":3,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:18+00:00","meta":{}}$g$);

-- subset.create
INSERT INTO subset (id, a, b) VALUES (1, 'A', 1);
SELECT golden($g$subset {"signal_type":"SAVE","cqrs_id":"subset","instance_data":{"id":1,"a":"A","b":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:19.991556+00:00"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:19+00:00","meta":{}}$g$);

-- subset.update_excluded_only
UPDATE subset SET c = 'x' WHERE id = 1;
SELECT golden($g$subset {"signal_type":"SAVE","cqrs_id":"subset","instance_data":{"id":1,"a":"A","b":1,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:20.161730+00:00"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:20+00:00","meta":{}}$g$);

-- subset.plus.create
INSERT INTO subset_plus (id, a) VALUES (1, 'A');
SELECT golden($g$subset_plus {"signal_type":"SAVE","cqrs_id":"subset_plus","instance_data":{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:20.329030+00:00","a":"A"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:20+00:00","meta":{}}$g$);

-- tracked_list.create
INSERT INTO tracked_list (id, name, num, author_id, "when", u, dec)
	VALUES (1, 'n', 1, 2, '2024-01-01 02:03:04.000005+00', '11111111-2222-3333-4444-555555555555', 1.5);
SELECT golden($g$tracked_list {"signal_type":"SAVE","cqrs_id":"tracked_list","instance_data":{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:20.829898+00:00","name":"n","num":1,"author":2,"when":"2024-01-01 02:03:04.000005+00:00","u":"11111111-2222-3333-4444-555555555555","dec":1.5,"t":null},"previous_data":{"name":null,"author_id":null,"when":null,"u":null,"dec":null},"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:20+00:00","meta":{}}$g$);

-- tracked_list.create_empty
INSERT INTO tracked_list (id) VALUES (2);
SELECT golden($g$tracked_list {"signal_type":"SAVE","cqrs_id":"tracked_list","instance_data":{"id":2,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:20.993333+00:00","name":null,"num":null,"author":null,"when":null,"u":null,"dec":null,"t":null},"previous_data":{},"instance_pk":2,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:20+00:00","meta":{}}$g$);

-- tracked_list.update_name_author
UPDATE tracked_list SET name = 'n2', author_id = 3 WHERE id = 1;
SELECT golden($g$tracked_list {"signal_type":"SAVE","cqrs_id":"tracked_list","instance_data":{"id":1,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:21.157103+00:00","name":"n2","num":1,"author":3,"when":"2024-01-01 02:03:04.000005+00:00","u":"11111111-2222-3333-4444-555555555555","dec":1.5,"t":null},"previous_data":{"name":"n","author":2},"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:21+00:00","meta":{}}$g$);

-- tracked_list.update_untracked
UPDATE tracked_list SET num = 2 WHERE id = 1;
SELECT golden($g$tracked_list {"signal_type":"SAVE","cqrs_id":"tracked_list","instance_data":{"id":1,"cqrs_revision":2,"cqrs_updated":"2026-11-23 05:45:21.321282+00:00","name":"n2","num":2,"author":3,"when":"2024-01-01 02:03:04.000005+00:00","u":"11111111-2222-3333-4444-555555555555","dec":1.5,"t":null},"previous_data":{},"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:21+00:00","meta":{}}$g$);

-- correlation.create
SET cqrs.correlation_id = 'SAVE-basic-23-None';
INSERT INTO basic (id, name) VALUES (23, 'cf');
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":23,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:25.853276+00:00","name":"cf","num":null},"previous_data":null,"instance_pk":23,"correlation_id":"SAVE-basic-23-None","retries":0,"expires":"2026-11-24T05:45:25+00:00","meta":{}}$g$);

-- correlation.sync_queue
SET cqrs.correlation_id = 'SYNC-basic-23-replica_q';
SELECT cqrs_sync('basic', 'id = 23', 'replica_q');
SELECT golden($g$cqrs.replica_q.basic {"signal_type":"SYNC","cqrs_id":"basic","instance_data":{"id":23,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:25.853276+00:00","name":"cf","num":null},"previous_data":null,"instance_pk":23,"correlation_id":"SYNC-basic-23-replica_q","retries":0,"expires":"2026-11-24T05:45:26+00:00","meta":{}}$g$);

-- correlation.uuid_delete
SET cqrs.correlation_id = '11111111-2222-3333-4444-555555555555';
DELETE FROM basic WHERE id = 23;
RESET cqrs.correlation_id;
SELECT golden($g$basic {"signal_type":"DELETE","cqrs_id":"basic","instance_data":{"id":23,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:26.179089+00:00"},"previous_data":null,"instance_pk":23,"correlation_id":"11111111-2222-3333-4444-555555555555","retries":0,"expires":"2026-11-24T05:45:26+00:00","meta":{}}$g$);

-- sync.command_all
DELETE FROM basic WHERE id <> 2;
UPDATE basic SET name = 'in', num = 3, cqrs_revision = 10;
SELECT test_skip();
SELECT cqrs_sync('basic');
SELECT golden($g$basic {"signal_type":"SYNC","cqrs_id":"basic","instance_data":{"id":2,"cqrs_revision":10,"cqrs_updated":"2026-11-23 05:45:04.488501+00:00","name":"in","num":3},"previous_data":null,"instance_pk":2,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:11+00:00","meta":{}}$g$);

-- meta.method.create, .sync, .delete
CREATE FUNCTION metam_meta(m metam, signal_type text, instance_data jsonb, previous_data jsonb)
RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_build_object('sig', signal_type,
		'keys', CASE WHEN signal_type = 'DELETE' THEN '["instance_data","signal_type"]'::jsonb
			ELSE '["instance_data","previous_data","signal_type"]' END,
		'n', m.name,
		'data_keys', (SELECT jsonb_agg(k ORDER BY array_position('{id,cqrs_revision,cqrs_updated,name}', k))
			FROM jsonb_object_keys(instance_data) k))
$$;
SELECT cqrs_register('metam', meta => 'metam_meta');
INSERT INTO metam (id, name) VALUES (1, 'm');
SELECT golden($g$metam {"signal_type":"SAVE","cqrs_id":"metam","instance_data":{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:25.021969+00:00","name":"m"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:25+00:00","meta":{"sig":"SAVE","keys":["instance_data","previous_data","signal_type"],"n":"m","data_keys":["id","cqrs_revision","cqrs_updated","name"]}}$g$);
SELECT cqrs_sync(m) FROM metam m;
SELECT golden($g$metam {"signal_type":"SYNC","cqrs_id":"metam","instance_data":{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:25.021969+00:00","name":"m"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:25+00:00","meta":{"sig":"SYNC","keys":["instance_data","previous_data","signal_type"],"n":"m","data_keys":["id","cqrs_revision","cqrs_updated","name"]}}$g$);
DELETE FROM metam;
SELECT golden($g$metam {"signal_type":"DELETE","cqrs_id":"metam","instance_data":{"id":1,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:25.346176+00:00"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:25+00:00","meta":{"sig":"DELETE","keys":["instance_data","signal_type"],"n":"m","data_keys":["id","cqrs_revision","cqrs_updated"]}}$g$);

-- meta.function.create
CREATE FUNCTION any_meta(cqrs_id text, signal_type text, instance_data jsonb, previous_data jsonb)
RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_build_object('f', '["instance_data","obj","previous_data","signal_type"]'::jsonb,
		'obj', initcap(cqrs_id), 'prev', previous_data)
$$;
SET cqrs.meta_function = 'public.any_meta';
INSERT INTO basic (id, name) VALUES (22, 'mf');
RESET cqrs.meta_function;
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":22,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:25.505523+00:00","name":"mf","num":null},"previous_data":null,"instance_pk":22,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:25+00:00","meta":{"f":["instance_data","obj","previous_data","signal_type"],"obj":"Basic","prev":null}}$g$);

-- ttl.None.create, .delete
CREATE EXTENSION dblink;
ALTER SYSTEM SET cqrs.message_ttl = 0;
SELECT pg_reload_conf();
SELECT test_await_setting('cqrs.message_ttl', '0');
\c
SET client_min_messages = error;
INSERT INTO basic (id, name) VALUES (24, 'ttl');
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":24,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:27.801537+00:00","name":"ttl","num":null},"previous_data":null,"instance_pk":24,"correlation_id":null,"retries":0,"expires":null,"meta":{}}$g$);
DELETE FROM basic WHERE id = 24;
SELECT golden($g$basic {"signal_type":"DELETE","cqrs_id":"basic","instance_data":{"id":24,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:27.962337+00:00"},"previous_data":null,"instance_pk":24,"correlation_id":null,"retries":0,"expires":null,"meta":{}}$g$);

-- ttl.5.create, .delete
ALTER SYSTEM SET cqrs.message_ttl = 5;
SELECT pg_reload_conf();
SELECT test_await_setting('cqrs.message_ttl', '5s');
\c
SET client_min_messages = error;
INSERT INTO basic (id, name) VALUES (25, 'ttl');
SELECT extract(epoch FROM (body::json ->> 'expires')::timestamptz - clock_timestamp()) BETWEEN 3 AND 5
	FROM cqrs.outbox ORDER BY id DESC LIMIT 1;
SELECT golden($g$basic {"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":25,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:28.121328+00:00","name":"ttl","num":null},"previous_data":null,"instance_pk":25,"correlation_id":null,"retries":0,"expires":"2026-11-23T05:45:33+00:00","meta":{}}$g$);
DELETE FROM basic WHERE id = 25;
SELECT golden($g$basic {"signal_type":"DELETE","cqrs_id":"basic","instance_data":{"id":25,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:28.284827+00:00"},"previous_data":null,"instance_pk":25,"correlation_id":null,"retries":0,"expires":"2026-11-23T05:45:33+00:00","meta":{}}$g$);
ALTER SYSTEM RESET cqrs.message_ttl;
SELECT pg_reload_conf();
SELECT test_await_setting('cqrs.message_ttl', '1d');
DROP EXTENSION dblink;

DROP TABLE basic, book, metam, subset, subset_plus, tracked_list CASCADE;
DROP FUNCTION golden, golden_normal, any_meta;

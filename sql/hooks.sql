-- Users' functions and expressions: serializer, sync_when, delete_data (I18);
-- what an error in them does.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = notice;
SELECT test_skip();
CREATE TABLE h (id int PRIMARY KEY, name text, status text DEFAULT 'ok');

-- A serializer: its object, and our columns at the end.
CREATE FUNCTION h_one(r h) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT jsonb_build_object('id', r.id, 'title', upper(r.name))$$;
CREATE FUNCTION h_json(r h) RETURNS json STABLE LANGUAGE sql
	AS $$SELECT ('{ "b": 1, "a": ' || to_json(r.name) || ' } ')::json$$;
CREATE FUNCTION h_empty(r h) RETURNS json STABLE LANGUAGE sql
	AS $$SELECT '{ }'::json$$;
SELECT cqrs_register('h', serializer => 'h_one', tracked_fields => '{name}');
SELECT cqrs_register('h', 'h_json', serializer => 'h_json');
SELECT cqrs_register('h', 'h_empty', serializer => 'h_empty');
INSERT INTO h VALUES (1, 'a');
UPDATE h SET name = 'b';
SELECT cqrs_sync('h');
DELETE FROM h;
SELECT test_messages();
SELECT cqrs_unregister('h_json');
SELECT cqrs_unregister('h_empty');

-- One for many rows, in one call; the order of messages stays.
CREATE FUNCTION h_many(r h[]) RETURNS jsonb[] STABLE LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '% rows', cardinality(r);
	RETURN (SELECT array_agg(jsonb_build_object('id', x.id, 'n', x.name)
		ORDER BY i) FROM unnest(r) WITH ORDINALITY x (id, name, status, rev, upd, i));
END
$$;
SELECT cqrs_alter('h', '{"serializer": "h_many", "tracked_fields": null}');
SELECT cqrs_register('h', 'plain', fields => '{id}');
BEGIN;
INSERT INTO h SELECT i, 'n' || i FROM generate_series(1, 3) i;
DELETE FROM h WHERE id = 2;
COMMIT;
SELECT test_messages();
BEGIN;
DELETE FROM h WHERE id = 1;
UPDATE h SET name = 'x';
COMMIT;
SELECT cqrs_sync('h');
SELECT test_messages();
SELECT cqrs_unregister('plain');
TRUNCATE h;
INSERT INTO h SELECT i, 'n' FROM generate_series(1, 2500) i;
SELECT count(*), count(DISTINCT line::jsonb -> 'id'), min(test_undated(line)) FROM cqrs_bulk_dump('h') line WHERE line <> 'h';
SELECT test_undated(cqrs_to_json(h, 'h')::text) FROM h WHERE id = 7;
SELECT count(*), count(DISTINCT instance_pk), bool_and(body::json #>> '{instance_data,id}' = instance_pk::text)
	FROM cqrs.outbox, test_mark WHERE outbox.id > test_mark.id AND signal_type = 'SAVE';
TRUNCATE h;
SELECT test_skip();

-- What a serializer must not return.
CREATE FUNCTION h_bad(r h) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT CASE r.id WHEN 1 THEN NULL WHEN 2 THEN '[]'::jsonb WHEN 3 THEN '1' END$$;
CREATE FUNCTION h_fewer(r h[]) RETURNS json[] STABLE LANGUAGE sql
	AS $$SELECT ARRAY['{}'::json]$$;
SELECT cqrs_alter('h', '{"serializer": "h_bad"}');
INSERT INTO h VALUES (1);
INSERT INTO h VALUES (2);
INSERT INTO h VALUES (3);
SELECT cqrs_alter('h', '{"serializer": "h_fewer"}');
INSERT INTO h VALUES (1), (2);
CREATE FUNCTION h_volatile(r h) RETURNS jsonb LANGUAGE sql AS $$SELECT '{}'::jsonb$$;
CREATE FUNCTION h_text(r h) RETURNS text STABLE LANGUAGE sql AS $$SELECT '{}'$$;
SELECT test_error('SELECT cqrs_alter(''h'', ''{"serializer": "h_volatile"}'')');
SELECT test_error('SELECT cqrs_alter(''h'', ''{"serializer": "h_text"}'')');
SELECT test_error('SELECT cqrs_alter(''h'', ''{"delete_data": "h_text"}'')');
-- A hook cannot write.
CREATE TABLE h_log (id int);
CREATE FUNCTION h_writes(r h) RETURNS jsonb STABLE LANGUAGE plpgsql
	AS $$BEGIN INSERT INTO public.h_log VALUES (r.id); RETURN '{}'; END$$;
SELECT cqrs_alter('h', '{"serializer": "h_writes"}');
INSERT INTO h VALUES (1);
SELECT cqrs_alter('h', '{"serializer": null}');
SELECT test_messages();

-- Custom data of a DELETE; what Python takes for false is left out.
CREATE FUNCTION h_custom(r h) RETURNS jsonb STABLE LANGUAGE sql AS $$
	SELECT CASE r.id WHEN 1 THEN jsonb_build_object('was', r.name) WHEN 2 THEN '{}' END$$;
SELECT cqrs_alter('h', '{"delete_data": "h_custom"}');
INSERT INTO h VALUES (1, 'one'), (2, 'two'), (3, 'three');
SELECT test_skip();
BEGIN;
UPDATE h SET name = 'changed' WHERE id = 1;
DELETE FROM h;
COMMIT;
SELECT test_messages();
SELECT cqrs_alter('h', '{"delete_data": null}');

-- sync_when looks at the final state.
SELECT cqrs_alter('h', jsonb_build_object('sync_when', $$status <> 'draft'$$));
INSERT INTO h VALUES (1, 'a', 'draft'), (2, 'b', 'ok'), (3, 'c', NULL);
SELECT test_messages();
BEGIN;
UPDATE h SET status = 'ok' WHERE id = 1;
UPDATE h SET status = 'draft' WHERE id = 1;
COMMIT;
BEGIN;
UPDATE h SET status = 'draft' WHERE id = 2;
UPDATE h SET status = 'final' WHERE id = 2;
COMMIT;
SELECT test_messages();
-- A row that stops matching: nothing, or a DELETE.
UPDATE h SET status = 'draft' WHERE id = 2;
SELECT test_messages();
UPDATE h SET status = 'ok' WHERE id = 2;
SELECT cqrs_alter('h', '{"leave": "delete"}');
SELECT test_skip();
UPDATE h SET status = 'draft' WHERE id IN (1, 2);
UPDATE h SET status = 'ok' WHERE id = 2;
SELECT cqrs_sync('h');
DELETE FROM h;
SELECT test_messages();
-- Columns that the condition names stay.
SELECT cqrs_register('h', 'h_part', fields => '{id}', sync_when => $$coalesce(h.status, name) <> 'x'$$);
SELECT cqrs_alter('h', '{"fields": ["id"], "sync_when": null}');
SELECT test_error('ALTER TABLE h DROP COLUMN status');
ALTER TABLE h RENAME COLUMN name TO title;
SELECT sync_when FROM cqrs.master WHERE cqrs_id = 'h_part';
ALTER TABLE h RENAME COLUMN title TO name;
SELECT test_error('ALTER TABLE h ALTER COLUMN status TYPE varchar(3)');
SELECT cqrs_unregister('h_part');
SELECT cqrs_alter('h', jsonb_build_object('fields', NULL, 'sync_when', $$status <> 'draft'$$));
SELECT test_error($q$SELECT cqrs_alter('h', '{"sync_when": "nope > 1"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('h', '{"sync_when": "id"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('h', '{"sync_when": "id > "}')$q$);
SELECT test_error($q$SELECT cqrs_alter('h', '{"sync_when": "true) OR (true"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('h', '{"sync_when": "random() > 0"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('h', '{"sync_when": "EXISTS (SELECT 1)"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('h', '{"leave": "maybe"}')$q$);
-- An error while it is evaluated.
SELECT cqrs_alter('h', '{"sync_when": "10 / id > 1"}');
INSERT INTO h VALUES (0, 'zero');

-- A failing hook parks the message instead of the transaction.
CREATE FUNCTION h_fails(r h) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
	IF r.name = 'bad' THEN
		RAISE EXCEPTION 'cannot serialize this';
	END IF;
	RETURN jsonb_build_object('id', r.id, 'name', r.name);
END
$$;
CREATE FUNCTION h_all_fail(r h[]) RETURNS jsonb[] STABLE LANGUAGE sql
	AS $$SELECT array_agg(h_fails(x)) FROM unnest(r) x$$;
ALTER FUNCTION h_all_fail SET search_path = public;
SELECT cqrs_alter('h', '{"serializer": "h_fails", "on_error": "park", "sync_when": null}');
INSERT INTO h VALUES (1, 'good'), (2, 'bad'), (3, 'good');
SELECT test_messages();
SELECT cqrs_alter('h', '{"serializer": "h_all_fail"}');
UPDATE h SET status = 'new';
SELECT test_messages();
SELECT reason, error, signal_type, cqrs_id, instance_pk, instance_data FROM cqrs.parked ORDER BY id;
-- A timeout is not parked.
CREATE FUNCTION h_slow(r h) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT '{}'::jsonb FROM pg_sleep(1000)$$;
SELECT cqrs_alter('h', '{"serializer": "h_slow"}');
BEGIN;
UPDATE h SET name = 'slow' WHERE id = 1;
SET LOCAL statement_timeout = '100ms';
SELECT cqrs_flush();
ROLLBACK;
-- sync_when and meta are parked, too.
SELECT cqrs_alter('h', '{"serializer": null, "sync_when": "10 / id > 1"}');
INSERT INTO h VALUES (0, 'zero');
SELECT error, instance_pk, instance_data FROM cqrs.parked ORDER BY id DESC LIMIT 1;


-- Parked messages are sent again as what is true by then.
SELECT cqrs_alter('h', '{"sync_when": null, "serializer": "h_fails"}');
TRUNCATE cqrs.parked, h;
INSERT INTO h VALUES (1, 'bad'), (2, 'bad'), (3, 'bad');
SELECT test_skip();
-- Still bad: parked anew.
SELECT cqrs_retry_parked('h');
SELECT signal_type, instance_pk FROM cqrs.parked ORDER BY id;
SELECT test_messages();
UPDATE h SET name = 'better' WHERE id = 1;
DELETE FROM h WHERE id = 2;
CREATE OR REPLACE FUNCTION h_fails(r h) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT jsonb_build_object('id', r.id, 'fixed', true)$$;
SELECT test_skip();
SELECT cqrs_retry_parked('h', ids => ARRAY[0, NULL]);
SELECT cqrs_retry_parked('h', ids => array_agg(id)) FROM cqrs.parked WHERE instance_pk = '1';
SELECT cqrs_retry_parked();
SELECT test_messages();
SELECT count(*) FROM cqrs.parked;
-- The DELETE of a row that is gone is made anew; of one that is back, not.
CREATE FUNCTION h_custom_fails(r h) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT to_jsonb(1 / 0)$$;
SELECT cqrs_alter('h', '{"delete_data": "h_custom_fails"}');
INSERT INTO h VALUES (4, 'n,"x" \\ ', NULL);
DELETE FROM h WHERE id IN (1, 4);
SELECT signal_type, instance_pk, row_data IS NOT NULL FROM cqrs.parked ORDER BY id;
INSERT INTO h VALUES (1, 'again');
CREATE OR REPLACE FUNCTION h_custom_fails(r h) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT to_jsonb(r.name)$$;
SELECT test_skip();
BEGIN;
SELECT cqrs_retry_parked();
SELECT mode FROM pg_locks WHERE relation = 'h'::regclass AND mode = 'ShareRowExclusiveLock';
COMMIT;
SELECT test_messages();
-- One that the broker has refused, and who may do it.
INSERT INTO cqrs.parked SELECT id, now(), 'refused', 'too large', committed_at, 'D', 'h', '77', '{"id":77}',
	NULL, NULL, NULL, 'corr', NULL, NULL, NULL FROM cqrs.segment_0 LIMIT 1;
CREATE ROLE regress_hook_stranger;
SET ROLE regress_hook_stranger;
SELECT test_error($q$SELECT cqrs_retry_parked('h')$q$);
SELECT cqrs_retry_parked();
RESET ROLE;
DROP ROLE regress_hook_stranger;
SELECT test_error($q$SELECT cqrs_retry_parked('nope')$q$);
SELECT cqrs_alter('h', '{"produce": false}');
SELECT test_error($q$SELECT cqrs_retry_parked('h')$q$);
SELECT cqrs_alter('h', '{"produce": true}');
BEGIN READ ONLY;
SELECT cqrs_retry_parked('h');
ROLLBACK;
SELECT cqrs_retry_parked('h');
SELECT test_messages();

-- Hooks run with the rights of the table's owner and an own search_path.
CREATE ROLE regress_hook_owner;
CREATE ROLE regress_hook_writer;
CREATE TABLE owned (id int PRIMARY KEY, seen text);
ALTER TABLE owned OWNER TO regress_hook_owner;
CREATE FUNCTION owned_serializer(r owned) RETURNS jsonb STABLE LANGUAGE sql AS $$
	SELECT jsonb_build_object('id', r.id, 'as', current_user, 'path', current_setting('search_path'),
		'pinned', current_setting('lc_monetary') <> 'POSIX')$$;
SELECT cqrs_register('owned', serializer => 'owned_serializer', sync_when => 'length(seen) > 0');
GRANT INSERT ON owned TO regress_hook_writer;
SELECT test_skip();
SET ROLE regress_hook_writer;
CREATE FUNCTION pg_temp.length(text) RETURNS int IMMUTABLE LANGUAGE sql AS $$SELECT 0$$;
SET search_path = pg_temp, public;
SET lc_monetary = 'POSIX';
INSERT INTO public.owned VALUES (1, 'x');
SHOW lc_monetary;
RESET lc_monetary;
RESET ROLE;
RESET search_path;
SELECT test_messages();
SET client_min_messages = error;
DROP TABLE owned, h, h_log CASCADE;
DROP FUNCTION pg_temp.length(text);
DROP ROLE regress_hook_owner, regress_hook_writer;

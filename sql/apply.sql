-- Messages become rows, by the rules of revisions and with the rights of the owner
-- (I23); handlers; bodies (I22).
\pset format unaligned
\pset tuples_only on

-- The body of a message, as masters send it.
CREATE FUNCTION body(signal text, id text, data text, pk text DEFAULT '1') RETURNS text LANGUAGE sql AS $$
	SELECT format('{"signal_type":"%s","cqrs_id":"%s","instance_data":%s,"previous_data":null,"instance_pk":%s,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:02+00:00","meta":{}}',
		signal, id, data, pk)
$$;
-- What becomes of a message with that body: the outcome, or the error.
CREATE FUNCTION apply(body text, direct boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message cqrs.message;
	detail text;
BEGIN
	message := cqrs.parse_message(body);
	message.direct := direct;
	RETURN cqrs_apply(message);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' ', SQLSTATE, SQLERRM, '(' || nullif(detail, '') || ')');
END
$$;
CREATE FUNCTION apply(signal text, id text, data text, pk text DEFAULT '1', direct boolean DEFAULT false)
RETURNS text LANGUAGE sql AS $$ SELECT apply(body(signal, id, data, pk), direct) $$;

CREATE TABLE author (id int PRIMARY KEY, name text, num int DEFAULT 7,
	cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('author');
-- instance_data of that table.
CREATE FUNCTION author(rev int, name text, id int DEFAULT 1) RETURNS text LANGUAGE sql AS $$
	SELECT format('{"id":%s,"cqrs_revision":%s,"cqrs_updated":"2026-11-23 05:45:02.814972+00:00","name":"%s"}', id, rev, name)
$$;

-- The table of revisions, row by row.
SELECT apply('SAVE', 'author', author(3, 'created'));
SELECT apply('SAVE', 'author', author(4, 'higher'));
SELECT apply('SAVE', 'author', author(4, 'equal'));
SELECT apply('SAVE', 'author', author(3, 'lower'));
SELECT apply('SAVE', 'author', author(9, 'with a gap'));
SELECT id, name, num, cqrs_revision FROM author;
SELECT apply('SYNC', 'author', author(9, 'sync, equal'));
SELECT apply('SYNC', 'author', author(2, 'sync, lower'));
SELECT apply('SYNC', 'author', author(5, 'sync, higher'));
SELECT apply('SYNC', 'author', author(5, 'sync, unknown', 2));
SELECT id, name, cqrs_revision FROM author ORDER BY id;
SELECT apply('DELETE', 'author', author(0, 'any revision'));
SELECT apply('DELETE', 'author', author(0, 'absent row'));
SELECT apply('SAVE', 'author', author(0, 'again'));
SELECT id, name, cqrs_revision FROM author ORDER BY id;

-- Keys that are missing or null.
SELECT apply('SAVE', 'author', '{"id":3,"cqrs_revision":0}');
SELECT apply('SAVE', 'author', '{"id":3,"cqrs_updated":"2026-11-23 05:45:02+00:00"}');
SELECT apply('SAVE', 'author', '{"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:02+00:00"}');
SELECT apply('SAVE', 'author', '{"id":null,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:02+00:00"}');
SELECT apply('SAVE', 'author', '{"id":3,"cqrs_revision":null,"cqrs_updated":"2026-11-23 05:45:02+00:00"}');
SELECT apply('SAVE', 'author', '{"id":3,"cqrs_revision":0,"cqrs_updated":null}');
SELECT apply('DELETE', 'author', '{"id":1,"cqrs_revision":0}');
SELECT apply('DELETE', 'author', '{"pk":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:02+00:00"}');
SELECT apply('DELETE', 'author', '{"id":[1,2],"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:02+00:00"}');
-- Other columns stay, or have their default; unknown keys are ignored, and of
-- equal keys the last one counts.
SELECT apply('SAVE', 'author', '{"id":1,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:02+00:00","num":8,"what":{"a":[1]},"num":9}');
SELECT apply('SAVE', 'author', '{"id":3,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:02+00:00","na\u006de":"escaped key"}');
SELECT apply('SAVE', 'author', '{"id":4,"cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:02+00:00","Name":"exact","num":null}');
SELECT id, name, num, cqrs_revision FROM author ORDER BY id;
SELECT apply('SAVE', 'nobody', author(0, 'x'));
SELECT apply('SAVE', 'author', '{"id":"x","cqrs_revision":1,"cqrs_updated":"2026-11-23 05:45:02+00:00"}');

-- Syncs by the broadcast key, and to this queue.
SELECT cqrs_alter_replica('author', '{"only_direct_syncs": true}');
SELECT apply('SYNC', 'author', author(20, 'broadcast', 1));
SELECT apply('SYNC', 'author', author(20, 'direct', 1), direct => true);
SELECT apply('SAVE', 'author', author(21, 'saved', 1));
SELECT id, name FROM author WHERE id = 1;
SELECT cqrs_alter_replica('author', '{"only_direct_syncs": false}');

-- Fields of a replica are required; other columns are left alone.
SELECT cqrs_alter_replica('author', '{"fields": ["id", "num"]}');
SELECT apply('SAVE', 'author', author(22, 'no num'));
SELECT apply('SAVE', 'author', '{"id":1,"cqrs_revision":22,"cqrs_updated":"2026-11-23 05:45:02+00:00","name":"not taken","num":5}');
SELECT apply('DELETE', 'author', author(22, ''));
SELECT apply('SAVE', 'author', '{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:02+00:00","name":"not taken","num":5}');
SELECT id, name, num, cqrs_revision FROM author WHERE id = 1;
SELECT cqrs_alter_replica('author', '{"fields": null}');

-- What an error says.
\set VERBOSITY default
SELECT cqrs_apply(cqrs.parse_message(body('SAVE', 'author', '{"id":1,"cqrs_revision":99,"cqrs_updated":"2026-11-23 05:45:02+00:00","num":"x"}')));
SELECT cqrs_apply(cqrs.parse_message(body('SAVE', 'author', '{"id":1,"cqrs_revision":99}')));
SELECT cqrs_apply(ROW('LOAD', 'author', '{}', NULL, '1', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message);
SELECT cqrs_apply(ROW('SAVE', 'author', '[]', NULL, '1', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message);
SELECT cqrs_apply(ROW('SAVE', 'author', NULL, NULL, '1', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message);
\set VERBOSITY terse
BEGIN READ ONLY;
SELECT cqrs_apply(cqrs.parse_message(body('SAVE', 'author', author(99, 'x'))));
ROLLBACK;

-- Triggers see the message; outside there is none.
CREATE TABLE seen (note text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	message cqrs.message := public.cqrs_current_message();
BEGIN
	INSERT INTO public.seen VALUES (concat_ws(' ', TG_WHEN, TG_OP, message.signal_type, message.instance_data ->> 'name',
		current_setting('search_path'), current_setting('TimeZone')));
	RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER see_before BEFORE INSERT OR UPDATE OR DELETE ON author FOR EACH ROW EXECUTE FUNCTION see();
CREATE TRIGGER see_after AFTER INSERT OR UPDATE OR DELETE ON author FOR EACH ROW EXECUTE FUNCTION see();
SELECT apply('SAVE', 'author', author(0, 'seen', 5));
SELECT apply('SAVE', 'author', author(0, 'duplicate', 5));
SELECT apply('SAVE', 'author', author(1, 'changed', 5));
SELECT apply('DELETE', 'author', author(1, 'gone', 5));
DELETE FROM author WHERE id = 4;
SELECT * FROM seen;
SELECT cqrs_current_message() IS NULL, current_setting('search_path');
DROP TRIGGER see_before ON author;
DROP TRIGGER see_after ON author;

-- A subtransaction that is rolled back takes its message along, and no more.
CREATE FUNCTION several() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT apply('SAVE', 'author', author(0, 'first', 10));
	RETURN NEXT apply('SAVE', 'author', '{"id":11,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:02+00:00","num":"x"}');
	RETURN NEXT apply('SAVE', 'author', author(0, 'second', 12));
	RETURN NEXT apply('SAVE', 'author', author(1, 'second again', 12));
END
$$;
SELECT several();
SELECT id, name, cqrs_revision FROM author WHERE id >= 10 ORDER BY id;

-- Handlers.  They are called after the rules of revisions, as the owner.
CREATE ROLE apply_owner;
GRANT CREATE ON SCHEMA public TO apply_owner;
GRANT INSERT ON seen TO apply_owner;
ALTER TABLE author OWNER TO apply_owner;
TRUNCATE seen, author;
CREATE FUNCTION deliver(signal text, id text, data text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN cqrs.deliver(cqrs.parse_message(body(signal, id, data)));
EXCEPTION WHEN OTHERS THEN
	RETURN concat_ws(' ', SQLSTATE, SQLERRM);
END
$$;
CREATE FUNCTION handle(message cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	name text := message.instance_data ->> 'name';
BEGIN
	INSERT INTO public.seen VALUES (concat_ws(' ', message.signal_type, name, current_user, session_user <> current_user));
	IF name LIKE 'error%' THEN
		RAISE 'handler fails';
	ELSIF name LIKE 'false%' THEN
		RETURN false;
	ELSIF name LIKE 'null%' THEN
		RETURN null;
	ELSIF name LIKE 'mine%' THEN
		RETURN true;
	END IF;
	INSERT INTO public.seen VALUES ('  ' || public.cqrs_apply(message));
	RETURN true;
END
$$;
SELECT cqrs_alter_replica('author', '{"handler": "public.handle"}');
SELECT deliver('SAVE', 'author', author(0, 'new'));
SELECT deliver('SAVE', 'author', author(0, 'duplicate'));
SELECT deliver('SAVE', 'author', author(1, 'changed'));
SELECT deliver('SAVE', 'author', author(2, 'error'));
SELECT deliver('SAVE', 'author', author(2, 'false'));
SELECT deliver('SAVE', 'author', author(2, 'null'));
SELECT deliver('SAVE', 'author', author(2, 'mine'));
SELECT deliver('SAVE', 'author', author(1, 'outdated or duplicate'));
SELECT deliver('SYNC', 'author', author(0, 'synced'));
SELECT name, cqrs_revision FROM author;
SELECT deliver('DELETE', 'author', author(3, 'gone'));
SELECT deliver('DELETE', 'author', author(3, 'absent'));
SELECT * FROM author;
SELECT * FROM seen;
TRUNCATE seen;
-- A handler may have its own settings, on which the message does not depend, and
-- change what is known of the table while it runs.
CREATE FUNCTION change(message cqrs.message) RETURNS boolean LANGUAGE plpgsql SET TimeZone = 'Asia/Kathmandu' AS $$
BEGIN
	GRANT SELECT ON public.author TO PUBLIC;
	INSERT INTO public.seen VALUES (public.cqrs_apply(message));
	REVOKE SELECT ON public.author FROM PUBLIC;
	INSERT INTO public.seen VALUES (public.cqrs_apply(message));
	RETURN true;
END
$$;
SELECT cqrs_alter_replica('author', '{"handler": "public.change"}');
SELECT deliver('SAVE', 'author', '{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45","name":"changed"}');
SELECT id, name, cqrs_updated AT TIME ZONE 'UTC' FROM author;
SELECT * FROM seen;
TRUNCATE seen, author;
-- A replica without a table.
CREATE FUNCTION watch(message cqrs.message) RETURNS boolean LANGUAGE sql AS $$
	INSERT INTO public.seen VALUES (concat_ws(' ', message.signal_type, message.instance_data, current_user));
	SELECT true
$$;
ALTER FUNCTION watch(cqrs.message) OWNER TO apply_owner;
SELECT cqrs_register_replica(NULL, 'watched', handler => 'watch');
SELECT deliver('SAVE', 'watched', '{"whatever": [1]}');
SELECT deliver('DELETE', 'watched', '{}');
SELECT * FROM seen;
SELECT apply('SAVE', 'watched', '{}');
UPDATE cqrs.replica SET handler = 'public.nowhere' WHERE cqrs_id = 'watched';
SELECT deliver('SAVE', 'watched', '{}');

-- Who may call cqrs_apply; with whose rights, and as whom.
CREATE ROLE apply_stranger;
GRANT USAGE ON SCHEMA public TO apply_stranger;
SELECT cqrs_alter_replica('author', '{"handler": null}');
SET ROLE apply_stranger;
SELECT apply('SAVE', 'author', author(0, 'by a stranger'));
SELECT cqrs.deliver(cqrs.parse_message(body('SAVE', 'author', author(0, 'by a stranger'))));
RESET ROLE;
CREATE FUNCTION whoami() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.name := concat_ws(' ', current_user, current_setting('session_replication_role'));
	RETURN NEW;
END
$$;
CREATE TRIGGER whoami BEFORE INSERT ON author FOR EACH ROW EXECUTE FUNCTION whoami();
SET session_replication_role = replica;
SELECT apply('SAVE', 'author', author(0, 'by a superuser'));
SELECT current_user = session_user AS unchanged, current_setting('session_replication_role');
RESET session_replication_role;
SET ROLE apply_owner;
SELECT apply(body('SAVE', 'author', author(0, 'by the owner', 2)), false);
SELECT apply('SAVE', 'author', '{"id":"x","cqrs_revision":0,"cqrs_updated":null}');
SELECT current_user;
RESET ROLE;
SELECT name FROM author ORDER BY id;
-- An owner cannot get at his caller's rights.
CREATE FUNCTION escape() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	SET SESSION AUTHORIZATION DEFAULT;
	RETURN NEW;
END
$$;
CREATE TRIGGER escape BEFORE UPDATE ON author FOR EACH ROW EXECUTE FUNCTION escape();
SELECT apply('SAVE', 'author', author(1, 'escapes'));

-- Bodies that are no messages.
CREATE FUNCTION parse(body text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	RETURN cqrs.parse_message(body);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' ', SQLSTATE, SQLERRM || ':', detail);
END
$$;
SELECT parse(b) FROM unnest(ARRAY[
	'', ' ', 'null', '1', '"x"', '[]', '{', '{}', '{}x', '{"a"}', '{"a":}', '{"a":1,}', '{a:1}', '{"a":1 "b":2}',
	'[{"signal_type":"SAVE"}]', '{"signal_type":"SAVE"', U&'\FEFF{}', '{"a":"\x"}', E'{"a":"\n"}', '{"a":"\u12"}', '{"a":nul}', '{"a":01}', '{"a":[1,]}', '{"a":{"b":1]}',
	'{"a":NaN}', 'NaN "a":1}']) b;
-- Each key of the envelope, in turn: missing, null, and other values.
CREATE FUNCTION with_key(key text, value text) RETURNS text LANGUAGE sql AS $$
	SELECT '{' || string_agg(format('"%s":%s', k, CASE WHEN k = key THEN value ELSE v END), ',') || '}'
	FROM unnest('{signal_type,cqrs_id,instance_data,instance_pk,correlation_id,retries,expires,meta}'::text[],
		'{"\"SAVE\"","\"author\"","{\"id\":1}","1","null","0","null","null"}'::text[]) AS e (k, v)
	WHERE k <> key OR value <> ''
$$;
SELECT key, value, parse(with_key(key, value))
FROM unnest('{signal_type,cqrs_id,instance_data,instance_pk,correlation_id,retries,expires,meta}'::text[]) WITH ORDINALITY k (key, n),
	unnest(ARRAY['', 'null', '1', '-1', '1.5', '1e3', '99999999999999999999', '"x"', '""', '"\u0000"', '"\ud800"', '[1, "a\u00e9"]', '{"a" : [NaN]}', 'true']) WITH ORDINALITY v (value, m)
ORDER BY n, m;
SELECT value, (cqrs.parse_message(with_key('expires', to_json(value)::text))).expires AT TIME ZONE 'UTC'
FROM unnest('{2026-11-24T05:45:02+00:00,2026-11-24 05:45:02,2026-11-24T05:45:02.25Z,2026-11-24T05:45:02.1234567+0230,2026-11-24T05:45-03,2024-02-29 00:00}'::text[]) value;
SELECT value, parse(with_key('expires', to_json(value)::text))
FROM unnest('{2026-11-24,tomorrow,infinity,2026-13-01T00:00:00,2023-02-29T00:00:00,2026-11-24T24:00:00,2026-11-24T05:45:02+,2026-11-24T05:45:02+25,2026-11-24T05:45:02.,0000-01-01T00:00:00,2026-11-24T05:45:02+00:00x}'::text[]) value;
-- Of equal keys the last one counts; keys may be escaped; other keys are ignored.
SELECT parse('{"cqrs_id":"a","instance_data":{"a":1},"instance_pk":[ 1 , "\u0078\u000a" ],"x":1,"signal_type":"DELETE","cqrs_id":"b","instance\u005fdata":{"b":2}}');
SELECT parse('{"cqrs_id":"\ud83d\ude00\"\\\/\b\f\n\r\t","instance_data":{"a":NaN,"b":[Infinity,{"c":-Infinity}],"d":"NaN"},"instance_pk":1,"signal_type":"SYNC","meta":{"n":NaN},"previous_data":{"p":1}}');
-- Nesting takes no stack.
SELECT left(parse(with_key('meta', repeat('[', 100000))), 200);
SELECT left(parse(with_key('instance_data', '{"a":' || repeat('{"a":', 100000))), 200);
SELECT length(parse(with_key('meta', repeat('[', 4000) || repeat(']', 4000))));
-- What good bodies become when a byte is lost, doubled, or another one: an error
-- or a message, and never anything else.
CREATE TABLE good (body text);
INSERT INTO good VALUES (body('SAVE', 'author', author(1, 'good \u00e9 \ud83d\ude00'))),
	(body('DELETE', 'author', '{"id":[1,"a"],"cqrs_revision":10,"cqrs_updated":"2026-11-23 05:45:05.807505+00:00","custom":{"a":[NaN]}}')),
	('{"signal_type":"SYNC","cqrs_id":"basic","instance_data":{"id":1,"tags":[[1,2],[3,4]],"f":1.5e-3,"b":true},"previous_data":{"b":null},"instance_pk":"x","correlation_id":"c","retries":3,"expires":null,"meta":{"k":{}}}');
CREATE TABLE bad AS
	SELECT left(body, i - 1) || change || substr(body, i + 1) AS body
	FROM good, generate_series(1, length(body)) i, unnest(ARRAY['', substr(body, i, 1) || substr(body, i, 1), '"', '{', ']', '\', ',', '0', E'\x01', '-']) change;
SELECT count(*) > 5000,
	count(*) FILTER (WHERE p LIKE '22P02 body is not a message: %') + count(*) FILTER (WHERE p LIKE '(%') = count(*),
	count(*) FILTER (WHERE p LIKE '22P02%') > 3000
FROM (SELECT parse(body) AS p FROM bad) b;
SELECT DISTINCT regexp_replace(p, 'byte \d+', 'byte N') FROM (SELECT parse(body) AS p FROM bad) b WHERE p LIKE '22P02%' ORDER BY 1;
-- What is JSON for PostgreSQL and what is for the envelope are the same.
CREATE FUNCTION is_json(body text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN body::json IS NOT NULL;
EXCEPTION WHEN OTHERS THEN
	RETURN false;
END
$$;
SELECT body, parse(body) FROM bad
WHERE is_json(body) AND parse(body) LIKE '%JSON%' OR NOT is_json(replace(body, '[NaN]', '[1]')) AND parse(body) NOT LIKE '%JSON%' ORDER BY body;
-- Messages as a master of django-cqrs sends them.
CREATE TABLE basic (id int PRIMARY KEY, name text, num int, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('basic');
SELECT apply(b) FROM unnest(ARRAY[
	'{"signal_type":"SAVE","cqrs_id":"basic","instance_data":{"id":1,"cqrs_revision":0,"cqrs_updated":"2026-11-23 05:45:02.814972+00:00","name":"n1","num":1},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:02+00:00","meta":{}}',
	'{"signal_type":"DELETE","cqrs_id":"basic","instance_data":{"id":1,"cqrs_revision":10,"cqrs_updated":"2026-11-23 05:45:05.807505+00:00"},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":"2026-11-24T05:45:05+00:00","meta":{}}']) b;

SELECT cqrs_unregister_replica(r.cqrs_id) FROM cqrs.replica r ORDER BY r.cqrs_id;
DROP TABLE author, seen, good, bad, basic;
DROP FUNCTION body, apply(text, boolean), apply(text, text, text, text, boolean), author, several, see, deliver, handle, change, watch,
	whoami, escape, parse, with_key, is_json;
REVOKE CREATE ON SCHEMA public FROM apply_owner;
REVOKE USAGE ON SCHEMA public FROM apply_stranger;
DROP ROLE apply_owner, apply_stranger;

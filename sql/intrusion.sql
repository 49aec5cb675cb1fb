-- What a role can put under a function that runs, into its arguments, or in
-- the way of the names that the install script uses (I18).
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
CREATE ROLE regress_alice;
CREATE ROLE regress_bob;
CREATE SCHEMA alice AUTHORIZATION regress_alice;
CREATE SCHEMA bob AUTHORIZATION regress_bob;
GRANT USAGE ON SCHEMA alice TO regress_bob;
SET ROLE regress_alice;
CREATE TABLE alice.c (id bigint PRIMARY KEY, n text);
INSERT INTO alice.c VALUES (1, 'one'), (2, 'two'), (3, 'three');
SELECT cqrs_register('alice.c', 'c');
CREATE TABLE alice.p (id int PRIMARY KEY, n text) PARTITION BY RANGE (id);
CREATE TABLE alice.p1 PARTITION OF alice.p FOR VALUES FROM (0) TO (10);
SELECT cqrs_register('alice.p', 'p');
GRANT SELECT ON alice.c, alice.p TO regress_bob;
RESET ROLE;

-- Bob runs between the rows of a function, and within its query.  There is no
-- cursor that he could close, move or replace.
SET ROLE regress_bob;
CREATE FUNCTION bob.evil() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	victim text;
	cursor refcursor;
	names text[];
BEGIN
	names := ARRAY(SELECT name FROM pg_cursors);
	EXECUTE 'CLOSE ALL';
	FOREACH victim IN ARRAY names || ARRAY(SELECT format('cqrs stream %s', i) FROM generate_series(1, 9) i)
	LOOP
		cursor := victim;
		BEGIN
			CLOSE cursor;
		EXCEPTION WHEN invalid_cursor_name THEN
		END;
		BEGIN
			OPEN cursor FOR SELECT 4702111234474983745::bigint, 1, 1;
		EXCEPTION WHEN duplicate_cursor THEN
		END;
	END LOOP;
	RETURN coalesce(cardinality(names), 0) || ' cursors';
END
$$;
SELECT test_undated(cqrs_bulk_dump('c')), bob.evil();
SELECT CASE WHEN line ~ '^c,' THEN 'header' ELSE line END, evil
	FROM (SELECT cqrs_diff_master('c', batch => 1) AS line, bob.evil() AS evil) s;
SELECT CASE WHEN line ~ '^c,' THEN 'header' ELSE line END
	FROM cqrs_diff_master('c', 'bob.evil() IS NOT NULL') line;
RESET ROLE;
SELECT cqrs_sync('c', 'bob.evil() IS NOT NULL');

-- A function that is left, resumed, used from others, or read by cursors.
SELECT test_undated(cqrs_bulk_dump('c')) LIMIT 2;
BEGIN;
DECLARE outer_cursor CURSOR WITH HOLD FOR SELECT test_undated(cqrs_bulk_dump('c'));
SAVEPOINT s;
FETCH 2 FROM outer_cursor;
ROLLBACK TO s;
FETCH 1 FROM outer_cursor;
COMMIT;
FETCH ALL FROM outer_cursor;
CLOSE outer_cursor;
BEGIN;
DECLARE outer_cursor CURSOR FOR SELECT test_undated(cqrs_bulk_dump('c'));
FETCH 2 FROM outer_cursor;
ALTER TABLE alice.c ADD COLUMN late int;
CLOSE outer_cursor;
ROLLBACK;
CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN SELECT cqrs_bulk_dump('c') LOOP
		RAISE INFO '%', test_undated(line);
		COMMIT;
	END LOOP;
END
$$;
CALL commits();
CREATE FUNCTION wrapped() RETURNS SETOF text LANGUAGE sql AS $$SELECT cqrs_bulk_dump('c')$$;
SELECT test_undated(wrapped()), test_undated(cqrs_bulk_dump('c'));
SELECT count(*) FROM generate_series(1, 3), LATERAL cqrs_bulk_dump('c');
DROP PROCEDURE commits();
DROP FUNCTION wrapped();
-- A definition that changes meanwhile is not the one that the function reads.
SET ROLE regress_alice;
SELECT cqrs_register('alice.c', 'c2');
CREATE FUNCTION alice.ends() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM cqrs.master WHERE cqrs_id = 'c2') THEN
		PERFORM cqrs_unregister('c2');
		PERFORM cqrs_alter('c', '{"fields": ["id"]}');
		PERFORM cqrs_to_json(x, 'c') FROM alice.c x;
	END IF;
	RETURN 0;
END
$$;
SELECT test_undated(cqrs_bulk_dump('c2')), alice.ends();
SELECT cqrs_alter('c', '{"fields": null}');
RESET ROLE;

-- Functions that do not exist.
SET ROLE regress_alice;
CREATE TABLE alice.o (id int PRIMARY KEY);
SELECT test_error($$SELECT cqrs_register('alice.o', meta => 0::regproc)$$);
SELECT test_error($$SELECT cqrs_register('alice.o', serializer => '-')$$);
SELECT test_error($$SELECT cqrs_register('alice.o', delete_data => 999999::oid::regproc)$$);
SELECT test_error($$SELECT cqrs_alter('c', '{"meta": "999999"}')$$);
SELECT test_error($$SELECT cqrs_alter('c', '{"serializer": "-"}')$$);
SELECT test_error($$SELECT cqrs_alter('c', '{"serializer": "0"}')$$);
SELECT test_error($$SELECT cqrs_alter('c', '{"delete_data": ""}')$$);
SELECT test_error($$SELECT cqrs_alter('c', '{"delete_data": "4294967295"}')$$);
-- And tables.
SELECT test_error($$SELECT cqrs_register(0)$$);
SELECT test_error($$SELECT cqrs_register(999999)$$);
SELECT test_error($$SELECT cqrs_register('-')$$);
SELECT test_error($$SELECT cqrs_register(1259)$$);
RESET ROLE;
SELECT cqrs.follow_partitions(0), cqrs.follow_partitions(999999), cqrs.follow_partitions('pg_class');

-- Rows that are made up.
SET ROLE regress_bob;
SELECT test_error($$SELECT cqrs_to_json(ROW(NULL, 'x', 0, now())::alice.c, 'c')$$);
SELECT test_error($$SELECT cqrs_to_json(ROW(1, 'x', NULL, now())::alice.c, 'c')$$);
SELECT test_error($$SELECT cqrs_to_json(ROW(1, 'x', 0, NULL)::alice.c, 'c')$$);
SELECT cqrs_to_json(ROW(1, NULL, 0, '2026-11-23 06:01:02+00')::alice.c, 'c');
SELECT test_error($$SELECT cqrs_to_json(ROW(1, 'x', 0, now()), 'c')$$);
SELECT test_error($$SELECT cqrs_to_json(ROW(1, 'x', 0, now())::alice.p1, 'p')$$);
SELECT cqrs_is_initial_save(ROW(NULL, NULL, NULL, NULL)::alice.c),
	cqrs_is_initial_save(ROW(NULL, NULL, NULL, NULL)::alice.p),
	cqrs_is_initial_save(ROW(1, 'x', 0, now())::alice.p1);
RESET ROLE;
SET ROLE regress_alice;
CREATE FUNCTION alice.c_json(alice.c) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT to_jsonb($1)$$;
SELECT cqrs_alter('c', '{"serializer": "alice.c_json"}');
SELECT test_error($$SELECT cqrs_to_json(ROW(NULL, 'x', 0, now())::alice.c, 'c')$$);
SELECT test_error($$SELECT cqrs_to_json(ROW(1, 'x', NULL, now())::alice.c, 'c')$$);
SELECT cqrs_sync(ROW(NULL, NULL, NULL, NULL)::alice.c), cqrs_sync(ROW(NULL, NULL, NULL, NULL)::alice.p);
SELECT cqrs_alter('c', '{"serializer": null}');
-- The same where the key is no number.
CREATE TABLE alice.k (id text PRIMARY KEY, n text);
CREATE FUNCTION alice.k_json(alice.k) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT to_jsonb($1)$$;
SELECT cqrs_register('alice.k', 'k', serializer => 'alice.k_json');
SELECT test_error($$SELECT cqrs_to_json(ROW(NULL, 'x', 0, now())::alice.k, 'k')$$);
SELECT test_error($$SELECT cqrs_to_json(ROW('x', NULL, 0, NULL)::alice.k, 'k')$$);
SELECT cqrs_sync(ROW(NULL, 'x', 0, now())::alice.k), cqrs_is_initial_save(ROW(NULL, 'x', 0, now())::alice.k);
DROP TABLE alice.k CASCADE;

DROP TABLE alice.o;
RESET ROLE;

-- Columns that are renamed or dropped are so in the rows of parked DELETEs.
SET ROLE regress_alice;
CREATE TABLE alice.r (id int, "a ""b" int, n text, PRIMARY KEY (id, "a ""b"));
CREATE FUNCTION alice.r_data(r alice.r) RETURNS jsonb STABLE LANGUAGE plpgsql
	AS $$BEGIN RETURN to_jsonb(r) - '{cqrs_revision,cqrs_updated}'::text[] || jsonb_build_object('x', 1 / current_setting('intrusion.divisor')::int); END$$;
SELECT cqrs_register('alice.r', 'r', delete_data => 'alice.r_data', on_error => 'park');
INSERT INTO alice.r VALUES (1, 2, '{"a \"b": ",}'), (3, 4, NULL);
RESET ROLE;
SELECT test_skip();
SET intrusion.divisor = 0;
DELETE FROM alice.r;
SET intrusion.divisor = 1;
ALTER TABLE alice.r RENAME "a ""b" TO "n""";
ALTER TABLE alice.r RENAME id TO key;
ALTER TABLE alice.r RENAME n TO id;
SELECT test_undated(row_data) FROM cqrs.parked ORDER BY id;
SELECT cqrs_alter('r', '{"fields": ["key", "n\""], "field_map": null}');
ALTER TABLE alice.r DROP COLUMN id;
ALTER TABLE alice.r ADD COLUMN id timestamptz;
SELECT test_undated(row_data) FROM cqrs.parked ORDER BY id;
-- What an administrator has written is left alone, unless it is an object.
UPDATE cqrs.parked SET row_data = CASE instance_pk WHEN '[1,2]' THEN replace(row_data, ',"', E' ,\n "') ELSE '["key"]' END;
ALTER TABLE alice.r RENAME key TO k;
SELECT test_undated(replace(row_data, E' ,\n ', ',')) FROM cqrs.parked ORDER BY id;
DELETE FROM cqrs.parked WHERE row_data = '["key"]';
SELECT cqrs_retry_parked('r');
SELECT test_messages();
-- A row without its key is none.
SET intrusion.divisor = 0;
INSERT INTO alice.r VALUES (5, 6);
DELETE FROM alice.r;
UPDATE cqrs.parked SET row_data = '{"n": 1, "cqrs_revision": 0, "cqrs_updated": "today"}';
SELECT test_error($$SELECT cqrs_retry_parked('r')$$);
DELETE FROM cqrs.parked;
DROP TABLE alice.r CASCADE;

-- What is sent must be readable by the role that has it sent.
GRANT UPDATE ON alice.c TO regress_bob;
REVOKE SELECT ON alice.c FROM regress_bob;
GRANT SELECT (id, n) ON alice.c TO regress_bob;
SELECT test_skip();
SET ROLE regress_bob;
SELECT test_error($$SELECT cqrs_sync(ROW(1, '', 0, now())::alice.c, 'bobs_queue')$$);
SELECT test_error($$SELECT cqrs_sync('c', NULL, 'bobs_queue')$$);
SELECT test_error($$SELECT cqrs_diff_sync(ARRAY['c,2026-11-23 06:01:02+00:00,bobs_queue', '[1]'])$$);
CALL cqrs_sync_all('c', queue => 'bobs_queue');
RESET ROLE;
SELECT test_messages();
GRANT SELECT ON alice.c TO regress_bob;
SET ROLE regress_bob;
SELECT cqrs_sync(ROW(1, '', 0, now())::alice.c, 'bobs_queue');
RESET ROLE;
SELECT test_messages();
-- A serializer reads with the rights of the owner, so what it makes is his.
SET ROLE regress_alice;
CREATE TABLE alice.secret (s text);
INSERT INTO alice.secret VALUES ('of alice');
CREATE FUNCTION alice.c_secret(alice.c) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT jsonb_build_object('id', $1.id, 's', s) FROM alice.secret$$;
SELECT cqrs_alter('c', '{"serializer": "alice.c_secret"}');
SET ROLE regress_bob;
SELECT test_error($$SELECT cqrs_bulk_dump('c')$$);
SELECT test_error($$SELECT cqrs_to_json(x, 'c') FROM alice.c x LIMIT 1$$);
RESET ROLE;
SELECT cqrs_alter('c', '{"serializer": null}');

-- Texts that are not valid in the encoding of the database.
CREATE EXTENSION dblink;
CREATE FUNCTION connect_with(option text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	PERFORM dblink_connect('encoding', format('postgresql:///%s?host=%s&port=%s&options=-c%%20%s',
		current_database(), replace(split_part(current_setting('unix_socket_directories'), ',', 1), '/', '%2F'),
		current_setting('port'), option));
	SELECT setting INTO detail FROM dblink('encoding',
		format('SHOW %s', split_part(option, '%', 1))) AS t (setting text);
	PERFORM dblink_disconnect('encoding');
	RETURN detail;
EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN substring(detail FROM 'FATAL:.*');
END
$$;
SELECT connect_with('cqrs.correlation_id%3D%C3%BC');
SELECT connect_with('cqrs.correlation_id%3D%FF%FE');
SELECT connect_with('cqrs.correlation_id%3Dabc%C3');
SELECT connect_with('cqrs.meta_function%3D%FF.f');
SELECT connect_with('cqrs.correlation_function%3D%FF.f');
DROP FUNCTION connect_with;
DROP EXTENSION dblink;

-- A function in a schema that others must not use is not their business.
CREATE SCHEMA hidden AUTHORIZATION regress_alice;
SET ROLE regress_alice;
CREATE FUNCTION hidden.c_json(alice.c) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT to_jsonb($1)$$;
SELECT cqrs_alter('c', '{"serializer": "hidden.c_json"}');
SET ROLE regress_bob;
CREATE FUNCTION bob.x() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE OR REPLACE FUNCTION bob.x() RETURNS int LANGUAGE sql AS 'SELECT 2';
ALTER FUNCTION bob.x() STABLE;
ALTER FUNCTION bob.x() RENAME TO y;
ALTER FUNCTION bob.y() SET SCHEMA bob;
DROP FUNCTION bob.y();
CREATE TABLE bob.t (id int PRIMARY KEY, n text);
CREATE VIEW bob.v AS SELECT n FROM bob.t;
SELECT cqrs_register('bob.t', 'bt', fields => '{id}');
ALTER TABLE bob.t DROP COLUMN n CASCADE;
DROP TABLE bob.t CASCADE;
CREATE TABLE bob.t (id int);
DROP OWNED BY regress_bob;
SELECT to_regclass('bob.t');
RESET ROLE;
CREATE SCHEMA bob AUTHORIZATION regress_bob;
GRANT USAGE ON SCHEMA alice TO regress_bob;
SET ROLE regress_alice;
SELECT test_error('ALTER FUNCTION hidden.c_json(alice.c) VOLATILE');
SELECT test_error('ALTER FUNCTION hidden.c_json(alice.c) RENAME TO gone');
SELECT test_error('DROP SCHEMA hidden CASCADE');
RESET ROLE;
-- The owner must be able to use it, whoever writes.
ALTER SCHEMA hidden OWNER TO CURRENT_USER;
GRANT INSERT ON alice.c TO regress_bob;
SET ROLE regress_bob;
INSERT INTO alice.c VALUES (50);
RESET ROLE;
SELECT test_error($$SELECT cqrs_alter('c', '{"serializer": "hidden.c_json"}')$$);
GRANT USAGE ON SCHEMA hidden TO regress_alice;
SELECT cqrs_alter('c', '{"serializer": "hidden.c_json"}');
SELECT cqrs_alter('c', '{"serializer": null}');
DROP SCHEMA hidden CASCADE;

-- Calls of a role without rights keep no locks, in a session that has to look
-- everything up.
REVOKE ALL ON alice.c, alice.p FROM regress_bob;
CREATE VIEW locks AS
	SELECT locktype, coalesce(relation::regclass::text, classid::regclass::text) AS object, mode FROM pg_locks
		WHERE pid = pg_backend_pid() AND locktype NOT IN ('virtualxid', 'transactionid')
			AND coalesce(relation, 16384) >= 16384
			AND relation::regclass::text IS DISTINCT FROM 'locks'
		ORDER BY 1, 2, 3;
GRANT SELECT ON locks TO PUBLIC;
\c -
SET client_min_messages = error;
SET ROLE regress_bob;
BEGIN;
SELECT cqrs_retry_parked();
SELECT cqrs_retry_parked(NULL, '{1}');
SELECT cqrs_is_initial_save(ROW(1, 'x', 0, now())::alice.c), cqrs_is_initial_save(ROW(1, 'x', 0, now())::alice.p);
SELECT cqrs_to_json(ROW(1, 'x', 0, '2026-11-23 06:01:02+00')::alice.c, 'c');
SELECT cqrs_to_json(ROW(1, 'x', 0, '2026-11-23 06:01:02+00')::alice.p, 'p');
SELECT cqrs_deleted_diff_master('{"c,2026-11-23 06:01:02+00:00"}');
SELECT cqrs_relation('c'), cqrs_flush(), cqrs_sync(NULL::alice.c);
SELECT * FROM locks;
COMMIT;
-- Who may retry locks others out of his tables only.
RESET ROLE;
INSERT INTO cqrs.parked SELECT 1, now(), 'refused', 'e', now(), 'S', 'c', '1', '{}';
SET ROLE regress_alice;
BEGIN;
SELECT cqrs_retry_parked();
SELECT * FROM locks WHERE locktype = 'object' OR object LIKE 'alice.%' OR object = 'cqrs.parked';
ROLLBACK;
RESET ROLE;
DELETE FROM cqrs.parked;
-- In what the transaction has written, rows are found, in partitions as well.
BEGIN;
INSERT INTO alice.p VALUES (7, 'x');
SELECT cqrs_is_initial_save(p) FROM alice.p;
UPDATE alice.p SET n = 'y';
SELECT cqrs_is_initial_save(p) FROM alice.p;
SELECT cqrs_is_initial_save(p) FROM alice.p1 p;
ROLLBACK;

-- Exchanges that owners may choose.
SET ROLE regress_alice;
CREATE TABLE alice.e (id int PRIMARY KEY);
SELECT test_error($$SELECT cqrs_register('alice.e', 'e', exchange => 'billing')$$);
SELECT cqrs_register('alice.e', 'e', exchange => 'cqrs', routing_key => 'any.key');
SELECT test_error($$SELECT cqrs_alter('e', '{"exchange": "billing"}')$$);
SELECT test_error('SET cqrs.allowed_exchanges = billing');
RESET ROLE;
SELECT test_error($$SET cqrs.allowed_exchanges = '"'$$);
SET cqrs.allowed_exchanges = 'other, "Bill,ing"';
SET ROLE regress_alice;
SELECT test_error($$SELECT cqrs_alter('e', '{"exchange": "Bill"}')$$);
SELECT cqrs_alter('e', '{"exchange": "Bill,ing"}');
SELECT cqrs_alter('e', '{"exchange": "other"}');
RESET ROLE;
SET cqrs.allowed_exchanges = '*';
SET ROLE regress_alice;
SELECT cqrs_alter('e', '{"exchange": "anything"}');
RESET ROLE;
RESET cqrs.allowed_exchanges;
-- A superuser may give any, and what a master has stays.
SELECT cqrs_alter('e', '{"exchange": "billing"}');
SET ROLE regress_alice;
SELECT cqrs_alter('e', '{"exchange": "billing", "produce": false}');
SELECT cqrs_alter('e', '{"produce": true}');
SELECT cqrs_alter('e', '{"exchange": null}');
SELECT test_error($$SELECT cqrs_alter('e', '{"exchange": "billing"}')$$);
RESET ROLE;
-- One role may be allowed more.
ALTER ROLE regress_alice SET cqrs.allowed_exchanges = 'billing';
SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'regress_alice'::regrole;
ALTER ROLE regress_alice RESET ALL;

-- Functions of masters do not write, not through others either.
SET ROLE regress_alice;
CREATE TABLE alice.log (n bigint);
CREATE SEQUENCE alice.numbers;
CREATE FUNCTION alice.writes() RETURNS bigint VOLATILE LANGUAGE plpgsql
	AS $$BEGIN INSERT INTO alice.log VALUES (1); RETURN 1; END$$;
CREATE FUNCTION alice.e_json(alice.e) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT jsonb_build_object('id', $1.id, 'n', alice.writes())$$;
CREATE FUNCTION alice.e_number(alice.e) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT jsonb_build_object('id', $1.id, 'n', nextval('alice.numbers'))$$;
CREATE FUNCTION alice.e_sync(alice.e) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT jsonb_build_object('id', $1.id, 'n', public.cqrs_sync('c'::text))$$;
CREATE FUNCTION alice.e_set(alice.e) RETURNS jsonb STABLE LANGUAGE plpgsql
	AS $$BEGIN PERFORM set_config('transaction_read_only', 'off', true); RETURN alice.e_json($1); END$$;
CREATE FUNCTION alice.e_when(int) RETURNS boolean STABLE LANGUAGE sql AS $$SELECT alice.writes() > 0$$;
SELECT cqrs_alter('e', '{"serializer": "alice.e_json"}');
BEGIN;
INSERT INTO alice.e VALUES (1);
COMMIT;
SELECT cqrs_alter('e', '{"serializer": "alice.e_number"}');
INSERT INTO alice.e VALUES (1);
SELECT cqrs_alter('e', '{"serializer": "alice.e_sync"}');
INSERT INTO alice.e VALUES (1);
CREATE FUNCTION alice.e_alter(alice.e) RETURNS jsonb STABLE LANGUAGE sql
	AS $$SELECT jsonb_build_object('id', $1.id, 'n', public.cqrs_alter('e', '{"serializer": null}')::text)$$;
SELECT cqrs_alter('e', '{"serializer": "alice.e_alter"}');
INSERT INTO alice.e VALUES (1);
SELECT cqrs_alter('e', '{"serializer": "alice.e_set"}');
INSERT INTO alice.e VALUES (1);
SELECT cqrs_alter('e', '{"serializer": null, "sync_when": "alice.e_when(id)"}');
INSERT INTO alice.e VALUES (1);
SELECT cqrs_alter('e', '{"sync_when": null}');
SELECT count(*) FROM alice.log;
SELECT is_called FROM alice.numbers;
BEGIN READ ONLY;
SELECT test_error($$SELECT cqrs_register('alice.log')$$);
SELECT test_error($$SELECT cqrs_alter('e', '{}')$$);
SELECT test_error($$SELECT cqrs_unregister('e')$$);
COMMIT;
-- The session writes as before, after an error and after a message was parked.
SELECT cqrs_alter('e', '{"serializer": "alice.e_json", "on_error": "park"}');
BEGIN;
INSERT INTO alice.e VALUES (1);
SELECT cqrs_flush();
SHOW transaction_read_only;
INSERT INTO alice.log VALUES (2);
SAVEPOINT s;
SELECT cqrs_to_json(e, 'e') FROM alice.e;
ROLLBACK TO s;
SHOW transaction_read_only;
INSERT INTO alice.log VALUES (3);
COMMIT;
SELECT count(*) FROM alice.log;
RESET ROLE;
SELECT error FROM cqrs.parked;
DELETE FROM cqrs.parked;

-- Nor do casts to JSON, which none but functions of masters use: as the owner,
-- whoever writes.
SET ROLE regress_alice;
CREATE TYPE alice.mood AS ENUM ('fine');
CREATE FUNCTION alice.mood_json(alice.mood) RETURNS json STABLE LANGUAGE plpgsql AS $$
DECLARE
	error text := 'none';
BEGIN
	BEGIN
		PERFORM alice.writes();
	EXCEPTION WHEN OTHERS THEN
		error := SQLSTATE;
	END;
	RETURN json_build_object('as', current_user, 'path', current_setting('search_path'), 'error', error);
END
$$;
CREATE CAST (alice.mood AS json) WITH FUNCTION alice.mood_json(alice.mood);
CREATE TABLE alice.m (id int PRIMARY KEY, mood alice.mood);
CREATE FUNCTION alice.m_json(alice.m) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT to_jsonb($1.mood)$$;
CREATE FUNCTION alice.m_fails(alice.m) RETURNS jsonb STABLE LANGUAGE sql AS $$SELECT to_jsonb(1 / 0)$$;
SELECT cqrs_register('alice.m', 'm', tracked_fields => '{mood}');
RESET ROLE;
SELECT test_skip();
INSERT INTO alice.m VALUES (1, 'fine'), (2, 'fine');
UPDATE alice.m SET mood = NULL WHERE id = 1;
SELECT test_messages();
SELECT test_undated(cqrs_bulk_dump('m'));
SELECT test_undated(cqrs_to_json(m, 'm')::text) FROM alice.m WHERE id = 2;
SELECT cqrs_alter('m', '{"delete_data": "alice.m_json"}');
DELETE FROM alice.m WHERE id = 2;
SELECT test_messages();
SELECT cqrs_alter('m', '{"delete_data": "alice.m_fails", "on_error": "park"}');
INSERT INTO alice.m VALUES (3, 'fine');
DELETE FROM alice.m WHERE id = 3;
SELECT row_data::json ->> 'mood' FROM cqrs.parked;
SELECT count(*) FROM alice.log;
DELETE FROM cqrs.parked;
DROP TABLE alice.m CASCADE;

-- Whoever catches an error that is not parked has his own rights again.
SET ROLE regress_alice;
CREATE FUNCTION alice.e_dooms(alice.e) RETURNS jsonb STABLE LANGUAGE plpgsql
	AS $$BEGIN RAISE EXCEPTION 'doomed' USING ERRCODE = 'serialization_failure'; END$$;
SELECT cqrs_alter('e', '{"serializer": "alice.e_dooms"}');
GRANT INSERT ON alice.e TO regress_bob;
SET ROLE regress_bob;
CREATE FUNCTION bob.catches() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		INSERT INTO alice.e VALUES (2);
		PERFORM public.cqrs_flush();
	EXCEPTION WHEN serialization_failure THEN
		NULL;
	END;
	RETURN concat_ws(', ', current_user, current_setting('search_path'),
		current_setting('transaction_read_only'));
END
$$;
SELECT bob.catches();
RESET ROLE;
SET ROLE regress_alice;
SELECT id FROM alice.e;
SELECT cqrs_alter('e', '{"serializer": null}');
RESET ROLE;

-- Nor does what a sync_when needs run in commands on other objects: the checks
-- of domains, when a literal of an array, a row or a range is read.  Alice's would
-- fetch from the cursors of others, fail in a way that is not ignored, or wait.
SET ROLE regress_alice;
CREATE TABLE alice.deed (what text);
CREATE FUNCTION alice.chk(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE
	victim refcursor;
	row record;
	deed text := (SELECT what FROM alice.deed);
BEGIN
	IF deed = 'fetch' THEN
		FOR victim IN SELECT name FROM pg_cursors WHERE name = 'victim' LOOP
			FETCH victim INTO row;
		END LOOP;
	ELSIF deed = 'fail' THEN
		RAISE EXCEPTION 'no DDL today' USING ERRCODE = '53000';
	ELSIF deed = 'cancel' THEN
		RAISE EXCEPTION 'no DDL today' USING ERRCODE = '57014';
	END IF;
	RETURN true;
END
$$;
CREATE DOMAIN alice.word AS text CHECK (alice.chk(value));
CREATE DOMAIN alice.words AS alice.word[];
CREATE TYPE alice.pair AS (one int, two alice.word);
CREATE TYPE alice.span AS RANGE (SUBTYPE = alice.word, MULTIRANGE_TYPE_NAME = alice.spans);
CREATE DOMAIN alice.slow AS text;
-- A canonical function begins as one of a superuser.
RESET ROLE;
CREATE TYPE alice.steps;
CREATE FUNCTION alice.step(alice.steps) RETURNS alice.steps LANGUAGE internal IMMUTABLE STRICT AS 'int4range_canonical';
CREATE TYPE alice.steps AS RANGE (SUBTYPE = int4, CANONICAL = alice.step);
ALTER FUNCTION alice.step OWNER TO regress_alice;
SET ROLE regress_alice;
CREATE OR REPLACE FUNCTION alice.step(r alice.steps) RETURNS alice.steps LANGUAGE plpgsql IMMUTABLE STRICT
	AS $$BEGIN IF (SELECT what FROM alice.deed) = 'fail' THEN RAISE 'no DDL today' USING ERRCODE = '53000'; END IF; RETURN r; END$$;
CREATE TABLE alice.l (id int PRIMARY KEY, a alice.word[], d alice.words, p alice.pair, s alice.span, m alice.spans,
	w alice.slow[], r alice.steps);
SELECT cqrs_register('alice.l', 'l_' || i, fields => '{id}', sync_when => condition) FROM unnest('{
	"a <> ''{x}''",
	"d <> ''{x}''",
	"p <> ''(1,x)''::alice.pair",
	"s <> ''[x,y]''",
	"m <> ''{[x,y]}''",
	"ARRAY[a[1]] <> ''{x,y}''",
	"coalesce(a, ''{x}'') IS NOT NULL",
	"CASE WHEN true THEN ''{x}'' ELSE a END IS NOT NULL",
	"a IN (''{x}'', ''{y}'')",
	"w <> ''{x}''",
	"a[1] <> ''x'' AND id BETWEEN ''1'' AND ''9''",
	"r <> ''[1,5)''"
	}'::text[]) WITH ORDINALITY AS c (condition, i);
RESET ROLE;
-- The first: it would fetch rows that alice may not read.
INSERT INTO alice.deed VALUES ('fetch');
BEGIN;
DECLARE victim CURSOR FOR SELECT * FROM generate_series(1, 100);
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
ALTER FUNCTION f() RENAME TO g;
DROP FUNCTION g();
CREATE TABLE t (id int);
ALTER TABLE t ADD COLUMN n int;
DROP TABLE t;
FETCH victim;
COMMIT;
UPDATE alice.deed SET what = 'fail';
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
ALTER FUNCTION f() RENAME TO g;
DROP FUNCTION g();
CREATE ROLE regress_carol;
DROP OWNED BY regress_carol;
DROP ROLE regress_carol;
UPDATE alice.deed SET what = 'cancel';
CREATE TABLE t (id int);
ALTER TABLE t ADD COLUMN n int;
DROP TABLE t;
-- No function of alice's is needed to wait.
UPDATE alice.deed SET what = '';
SET ROLE regress_alice;
SET statement_timeout = '20s';
ALTER DOMAIN alice.slow ADD CHECK (pg_sleep(1e9) IS NULL) NOT VALID;
CREATE FUNCTION alice.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
RESET statement_timeout;
RESET ROLE;
-- JSON_VALUE has the checks of a domain prepared, where it exists; PostgreSQL
-- evaluates some of them then.
SELECT current_setting('server_version_num')::int >= 170000 AS has_json_value \gset
\if :has_json_value
SET ROLE regress_alice;
CREATE DOMAIN alice.folded AS text CHECK (alice.chk('constant') AND value IS NOT NULL);
ALTER TABLE alice.l ADD COLUMN j jsonb;
DO $$BEGIN PERFORM cqrs_register('alice.l', 'l_json', fields => '{id}',
	sync_when => 'JSON_VALUE(j, ''$.a'' RETURNING alice.folded DEFAULT ''d'' ON EMPTY) IS NOT NULL'); END$$;
RESET ROLE;
UPDATE alice.deed SET what = 'fail';
ALTER DOMAIN alice.folded SET DEFAULT 'x';
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
DROP FUNCTION f();
-- The same of a function with settings.
ALTER FUNCTION alice.chk SET search_path = pg_catalog;
ALTER DOMAIN alice.folded SET DEFAULT 'y';
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
DROP FUNCTION f();
ALTER FUNCTION alice.chk RESET ALL;
SET ROLE regress_alice;
DO $$BEGIN PERFORM cqrs_unregister('l_json'); END$$;
RESET ROLE;
\endif
-- The conditions follow renamed columns and types.
ALTER TABLE alice.l RENAME a TO "A";
ALTER TABLE alice.l RENAME d TO "D";
ALTER TABLE alice.l RENAME p TO "P";
ALTER TABLE alice.l RENAME s TO "S";
ALTER TABLE alice.l RENAME m TO "M";
ALTER TABLE alice.l RENAME r TO "R";
ALTER TYPE alice.pair RENAME TO twin;
ALTER DOMAIN alice.word RENAME TO term;
SELECT sync_when FROM cqrs.master WHERE cqrs_id LIKE 'l\_%' ORDER BY substring(cqrs_id FROM 3)::int;
SELECT test_error('DROP TYPE alice.span CASCADE');
-- Whoever writes needs what the condition needs.
SELECT cqrs_unregister('l_10');
UPDATE alice.deed SET what = '';
INSERT INTO alice.l VALUES (1, '{y}', '{y}', (2, 'x'), '[x,z]', '{}', NULL, '[1,6)');
SELECT instance_pk, cqrs_id FROM cqrs.outbox WHERE cqrs_id LIKE 'l\_%' ORDER BY id;
SELECT cqrs_unregister(cqrs_id) FROM cqrs.master WHERE cqrs_id LIKE 'l\_%';
DROP TABLE alice.l, alice.deed;
SELECT test_skip();

-- Functions and operators that fit the calls of the install script better than
-- those of pg_catalog, in the schema of the extension and in the path of its
-- creator, before it is created.
DROP EXTENSION cqrs CASCADE;
GRANT CREATE ON SCHEMA public TO regress_bob;
SET ROLE regress_bob;
CREATE FUNCTION bob.runs(anyelement) RETURNS anyelement LANGUAGE plpgsql
	AS $$BEGIN RAISE EXCEPTION 'running as %', current_user; END$$;
DO $do$
DECLARE
	schema text;
	type text;
	name text;
BEGIN
	FOREACH schema IN ARRAY '{public,bob}'::text[] LOOP
		FOREACH type IN ARRAY '{text,bigint,integer,boolean,timestamptz,numeric,oid}'::text[] LOOP
			EXECUTE format($$CREATE FUNCTION %1$s.step(%2$s[], %2$s) RETURNS %2$s[] LANGUAGE sql
				AS 'SELECT bob.runs($1)'$$, schema, type);
			FOREACH name IN ARRAY '{array_agg,count,sum,min,max,bool_or}'::text[] LOOP
				EXECUTE format('CREATE AGGREGATE %1$s.%2$s(%3$s) (SFUNC = %1$s.step, STYPE = %3$s[])',
					schema, name, type);
			END LOOP;
			EXECUTE format($$CREATE FUNCTION %1$s.compare(%2$s, %2$s) RETURNS boolean LANGUAGE sql
				AS 'SELECT bob.runs(true)'$$, schema, type);
			FOREACH name IN ARRAY '{>,<,=,<>,~}'::text[] LOOP
				EXECUTE format('CREATE OPERATOR %1$s.%2$s (LEFTARG = %3$s, RIGHTARG = %3$s, FUNCTION = %1$s.compare)',
					schema, name, type);
			END LOOP;
		END LOOP;
		EXECUTE format($$CREATE FUNCTION %s.array_position(text[], text) RETURNS integer LANGUAGE sql
			AS 'SELECT bob.runs(1)'$$, schema);
	END LOOP;
END
$do$;
RESET ROLE;
SET search_path = bob, pg_catalog, public;
CREATE EXTENSION cqrs SCHEMA public;
RESET search_path;

-- What the extension's objects use that is not its own or PostgreSQL's: none.
-- The bodies of functions do not show here, so each has a path of its own.
WITH RECURSIVE own (classid, objid) AS (
	SELECT classid, objid FROM pg_depend
		WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
			AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs')
	UNION SELECT d.classid, d.objid FROM pg_depend d
		JOIN own o ON d.refclassid = o.classid AND d.refobjid = o.objid
		WHERE d.deptype IN ('i', 'a', 'P', 'S'))
SELECT pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
	FROM pg_depend d JOIN own USING (classid, objid)
	WHERE d.refobjid >= 16384 AND d.deptype <> 'e'
		AND (d.refclassid, d.refobjid) NOT IN (SELECT classid, objid FROM own);
SELECT p.oid::regprocedure, p.proconfig
	FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs')
		AND p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c')
		AND p.proconfig IS DISTINCT FROM '{"search_path=pg_catalog, pg_temp"}';

-- They work in the path of anybody, and with temporary tables in it.
CREATE TABLE alice.i (id int PRIMARY KEY);
SELECT cqrs_register('alice.i', 'i');
GRANT pg_monitor TO regress_bob;
SET ROLE regress_bob;
SET search_path = bob, public, pg_catalog;
CREATE TEMP TABLE pg_class (oid oid, relname text);
CREATE TEMP TABLE pg_trigger (oid oid);
SELECT count(*) FROM cqrs_check();
SELECT pending, parked, confirmed FROM cqrs.stats;
SELECT pg_catalog.count(pid) IS NOT NULL FROM cqrs.lanes;
RESET search_path;
DROP TABLE pg_temp.pg_class, pg_temp.pg_trigger;
RESET ROLE;
SELECT pg_catalog.count(*) FROM cqrs_check();
SELECT pending, parked, confirmed FROM cqrs.stats;
INSERT INTO alice.i VALUES (1);
SELECT pg_catalog.count(*) FROM cqrs.outbox;
UPDATE test_mark SET id = 0;

DROP SCHEMA alice CASCADE;
DROP OWNED BY regress_alice, regress_bob CASCADE;
DROP ROLE regress_alice, regress_bob;

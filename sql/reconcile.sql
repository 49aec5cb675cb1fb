-- The replica's side of comparing rows with a master, and loads of dumps.  A
-- master and a replica with its name are in the same database here.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE author (id int PRIMARY KEY, name text);
SELECT cqrs_register('author');
INSERT INTO author SELECT i, 'name ' || i FROM generate_series(1, 5) i;
CREATE TABLE copy (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
SELECT cqrs_register_replica('copy', 'author');
-- Lines without what varies, and as input.
CREATE FUNCTION undated(line text) RETURNS text LANGUAGE sql AS $$
	SELECT regexp_replace(line, '^author,[0-9: .+-]+', 'author,TIME')
$$;
CREATE FUNCTION dump() RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(l) FROM cqrs_bulk_dump('author') l
$$;

-- Loads: all, again, in part; a load sets nothing back.
CALL cqrs_bulk_load(dump());
CALL cqrs_bulk_load(dump());
SELECT id, name, cqrs_revision FROM copy ORDER BY id;
UPDATE author SET name = 'new' WHERE id <= 2;
CLUSTER author USING author_pkey;
UPDATE copy SET name = 'newer', cqrs_revision = 7 WHERE id = 1;
CALL cqrs_bulk_load(dump(), batch => 2);
SELECT id, name, cqrs_revision FROM copy ORDER BY id;
-- From a file; with blank lines, CRLF and without a line feed at the end.
SELECT current_setting('data_directory') || '/reconcile.dump' AS file \gset
SELECT cqrs_bulk_dump('author', :'file', true);
DELETE FROM copy WHERE id > 3;
CALL cqrs_bulk_load(:'file', batch => 1);
CALL cqrs_bulk_load(ARRAY[E'author\r', '', '{"id":6,"name":"b","cqrs_revision":0,"cqrs_updated":"2026-11-23 00:00:00Z"}  ', NULL, '']);
SELECT pid, command, phase FROM cqrs.progress_sync;
-- clear
SELECT count(*) FROM copy;
CALL cqrs_bulk_load(dump(), true);
SELECT id, name, cqrs_revision FROM copy ORDER BY id;
BEGIN;
SELECT cqrs_consume('shop');
CALL cqrs_bulk_load(dump(), true);
ROLLBACK;
BEGIN;
SELECT cqrs_consume('shop', paused => true);
CALL cqrs_bulk_load(dump(), true);
SELECT count(*) FROM copy;
ROLLBACK;

-- Bad lines are returned with their numbers, and the others stay.
TRUNCATE copy;
CREATE FUNCTION line(id text, name text) RETURNS text LANGUAGE sql AS $$
	SELECT format('{"id":%s,"name":"%s","cqrs_revision":0,"cqrs_updated":"2026-11-23 00:00:00+00:00"}', id, name)
$$;
CALL cqrs_bulk_load(ARRAY['author', line('1', 'a'), 'nonsense', line('2', 'bad'),
	'[1]', line('3', 'c'), '{"id":4,"name":"d"}', line('"x"', 'e'), line('null', 'e'),
	line('5', 'e'), '{', line('6', 'f'), '{},"x":1']);
SELECT id, name FROM copy ORDER BY id;
-- NaN, which Python writes bare.
CREATE TABLE measure (id int PRIMARY KEY, value float8);
SELECT cqrs_register_replica('measure');
CALL cqrs_bulk_load('{measure,"{\"id\":1,\"value\":NaN,\"cqrs_revision\":0,\"cqrs_updated\":\"2026-11-23 00:00:00+00:00\"}"}'::text[]);
SELECT id, value FROM measure;
-- Many groups, some of which have bad lines; deferred constraints.
TRUNCATE copy;
ALTER TABLE copy ADD CONSTRAINT even UNIQUE (name) DEFERRABLE INITIALLY DEFERRED;
CREATE FUNCTION many() RETURNS text[] LANGUAGE sql AS $$
	SELECT ARRAY['author'] || ARRAY(SELECT line(i::text, CASE WHEN i % 250 = 0 THEN 'bad'
		WHEN i IN (400, 401) THEN 'same' ELSE i::text END) FROM generate_series(1, 1000) i)
$$;
CALL cqrs_bulk_load(many(), batch => 300);
SELECT count(*) FROM copy;
ALTER TABLE copy DROP CONSTRAINT even;
-- A handler; a replica without a table.
CREATE TABLE seen (message text);
CREATE FUNCTION handle(m cqrs.message) RETURNS boolean LANGUAGE sql AS $$
	INSERT INTO public.seen VALUES (m.signal_type || ' ' || (m.instance_pk)::text || ' ' || (m.instance_data ->> 'name')) RETURNING true
$$;
SELECT cqrs_register_replica(NULL, 'event', handler => 'handle');
CALL cqrs_bulk_load(ARRAY['event', line('1', 'a'), line('"b"', 'b')]);
TABLE seen;
-- Errors
SELECT test_error($$CALL cqrs_bulk_load(NULL::text[])$$);
SELECT test_error($$CALL cqrs_bulk_load('{}'::text[])$$);
SELECT test_error($$CALL cqrs_bulk_load('{nothing}'::text[])$$);
SELECT test_error($$CALL cqrs_bulk_load('{author}'::text[], batch => 0)$$);
SELECT test_error($$CALL cqrs_bulk_load('{event}'::text[], true)$$);
SELECT test_error($$CALL cqrs_bulk_load('relative')$$);
SELECT test_error($$CALL cqrs_bulk_load('/')$$);
SELECT test_error($$CALL cqrs_bulk_load('/nonexistent/file')$$);
-- Zero bytes; a read of blanks only is not the end.
SELECT lo_from_bytea(0, 'author\012\000{"id":1}\012') AS object \gset
SELECT lo_export(:object, :'file');
SELECT regexp_replace(test_error(format('CALL cqrs_bulk_load(%L)', :'file')), '"/.*/', '"');
TRUNCATE copy;
CALL cqrs_bulk_load(ARRAY['author', repeat(' ', 17000000), line('7', 'g')]);
SELECT lo_unlink(:object);
-- The check of a domain runs with the rights of the table's owner.
CREATE ROLE regress_domain;
CREATE FUNCTION refuse_key(value int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE EXCEPTION 'checked as %', current_user;
END $$;
CREATE DOMAIN refused_key AS int;
CREATE TABLE domains (id refused_key PRIMARY KEY);
SELECT cqrs_register_replica('domains');
ALTER DOMAIN refused_key ADD CHECK (public.refuse_key(value));
ALTER TABLE domains OWNER TO regress_domain;
SELECT test_error($$SELECT cqrs_diff_replica('{"domains,2026-11-23 00:00:00+00:00","[[1,0]]"}')$$);
SELECT cqrs_unregister_replica('domains');
DROP TABLE domains;
DROP DOMAIN refused_key;
DROP FUNCTION refuse_key(int);
DROP ROLE regress_domain;

-- Rows that differ: missing here, with another revision, alike.
TRUNCATE copy;
CALL cqrs_bulk_load(dump());
SELECT undated(l) FROM cqrs_diff_replica(ARRAY(SELECT cqrs_diff_master('author'))) l;
UPDATE copy SET cqrs_revision = 9 WHERE id = 1;
UPDATE copy SET cqrs_revision = 0 WHERE id = 2;
DELETE FROM copy WHERE id IN (3, 5);
SELECT undated(l) FROM cqrs_diff_replica(ARRAY(SELECT cqrs_diff_master('author', batch => 2))) l;
-- The answer goes to the queue of the replica, as the master reads it.
BEGIN;
SELECT cqrs_consume('shop', paused => true);
SELECT test_skip();
SELECT undated(l) FROM cqrs_diff_replica(ARRAY(SELECT cqrs_diff_master('author'))) l;
SELECT cqrs_diff_sync(ARRAY(SELECT cqrs_diff_replica(ARRAY(SELECT cqrs_diff_master('author')))));
SELECT cqrs_flush();
SELECT test_messages();
ROLLBACK;
-- As Python writes it; without lines.
SELECT cqrs_diff_replica(ARRAY['author,2026-11-23 06:01:02.516948+00:00', '[[1,9],[2,1],[7,0]]', '']);
SELECT cqrs_diff_replica('{}');
-- Errors
SELECT test_error($$SELECT cqrs_diff_replica('{"author"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"author,x"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"nothing,2026-11-23 00:00:00+00:00"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"author,2026-11-23 00:00:00+00:00","[[1,5.7]]"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"author,2026-11-23 00:00:00+00:00","[[1,1e3]]"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"event,2026-11-23 00:00:00+00:00"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"author,2026-11-23 00:00:00+00:00","[1]"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"author,2026-11-23 00:00:00+00:00","[[1]]"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"author,2026-11-23 00:00:00+00:00","[[\"x\",1]]"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"author,2026-11-23 00:00:00+00:00","{}"}')$$);
SELECT test_error($$SELECT cqrs_diff_replica('{"author,2026-11-23 00:00:00+00:00","[["}')$$);

-- Rows that the master does not have.
TRUNCATE copy;
CALL cqrs_bulk_load(dump());
INSERT INTO copy VALUES (8, 'gone', 3, '2026-11-23'), (9, 'gone', 3, '2026-11-23'),
	(10, 'born since', 0, 'infinity');
SELECT undated(l) FROM cqrs_deleted_diff_replica('author') l;
SELECT undated(l) FROM cqrs_deleted_diff_replica('author', 'id > 2 -- ids', 3) l;
SELECT undated(l) FROM cqrs_deleted_diff_replica('author', 'copy.id > 100') l;
SELECT undated(l) FROM cqrs_deleted_diff_master(ARRAY(SELECT cqrs_deleted_diff_replica('author'))) l;
SELECT cqrs_deleted_sync_replica(ARRAY(SELECT cqrs_deleted_diff_master(ARRAY(SELECT cqrs_deleted_diff_replica('author')))));
SELECT id FROM copy ORDER BY id;
SELECT cqrs_deleted_sync_replica(ARRAY['author,2026-11-23 06:01:02.516948+00:00', '[8,9]', '']);
SELECT cqrs_deleted_sync_replica('{}');
SELECT test_error($$SELECT cqrs_deleted_diff_replica('nothing')$$);
SELECT test_error($$SELECT cqrs_deleted_diff_replica(NULL)$$);
SELECT test_error($$SELECT cqrs_deleted_diff_replica('author', batch => 0)$$);
SELECT test_error($$SELECT cqrs_deleted_diff_replica('author', 'true) OR (true')$$);
SELECT test_error($$SELECT cqrs_deleted_sync_replica('{"author,x"}')$$);
SELECT test_error($$SELECT cqrs_deleted_sync_replica('{"author,2026-11-23 00:00:00+00:00","x"}')$$);

-- Keys of several columns; soft deletes.
CREATE TABLE place (town text, day date, name text, PRIMARY KEY (town, day));
SELECT cqrs_register('place');
INSERT INTO place VALUES (E'a"\\b', '2026-01-02', 'x'), ('ä', '2026-01-03', 'y');
CREATE TABLE place_copy (day date, town text, name text, gone timestamptz, PRIMARY KEY (town, day));
SELECT cqrs_register_replica('place_copy', 'place', soft_delete => 'gone');
CREATE FUNCTION dump(id text) RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(l) FROM cqrs_bulk_dump(id) l
$$;
CALL cqrs_bulk_load(dump('place'));
SELECT town, day, name FROM place_copy ORDER BY 3;
SELECT count(*) FROM cqrs_diff_replica(ARRAY(SELECT cqrs_diff_master('place')));
SELECT l FROM cqrs_diff_replica(ARRAY(SELECT cqrs_diff_master('place')) || ARRAY['[[["\u00e4", "2026-01-03"],5]]']) l OFFSET 1;
DELETE FROM place WHERE name = 'y';
SELECT cqrs_deleted_sync_replica(ARRAY(SELECT cqrs_deleted_diff_master(ARRAY(SELECT cqrs_deleted_diff_replica('place')))));
SELECT town, gone IS NOT NULL, cqrs_revision FROM place_copy ORDER BY name;
SELECT l FROM cqrs_deleted_diff_replica('place') l OFFSET 1;
SELECT test_error($$SELECT cqrs_diff_replica('{"place,2026-11-23 00:00:00+00:00","[[1,0]]"}')$$);

-- Failed messages of these rows, as a DELETE of the master removes them: those
-- that are not later than the lines, dead letters too, where a row is or not.
CREATE FUNCTION fail(id bigint, cqrs_id text, pk text, signal "char", updated text, waits boolean,
	key text DEFAULT 'cqrs_updated') RETURNS void LANGUAGE sql AS $$
	INSERT INTO cqrs.failed VALUES (id, cqrs_id, pk, signal, convert_to(format(
		'{"signal_type":"%s","cqrs_id":"%s","instance_pk":%s,"instance_data":{"id":%s,"name":"r1","cqrs_revision":1,"%s":"%s"}}',
		CASE signal WHEN 'S' THEN 'SAVE' WHEN 'D' THEN 'DELETE' ELSE 'SYNC' END, cqrs_id, pk, pk, key, updated), 'UTF8'),
		NULL, false, now(), now(), 1, CASE WHEN waits THEN now() + '1 day' END, '23514', 'bad')
$$;
TRUNCATE copy;
INSERT INTO copy VALUES (77, 'gone', 0, '2026-11-22 00:00Z'), (78, 'gone', 0, '2026-11-22 00:00Z'),
	(80, 'since', 5, '2026-11-25 00:00Z'), (81, 'other', 0, '2026-11-22 00:00Z');
SELECT fail(1, 'author', '77', 'S', '2026-11-23T00:00:00+00:00', true),
	fail(2, 'author', '77', 'Y', '2026-11-24T00:00:00Z', true),
	fail(3, 'author', '77', 'S', '2026-11-23 00:00:00+00:00', false),
	fail(4, 'author', '77', 'D', '2026-11-23T00:00:00+00:00', true),
	fail(5, 'author', '77', 'S', '2026-11-24T00:00:00.000001+00:00', true),
	fail(6, 'measure', '77', 'S', '2026-11-23T00:00:00+00:00', true),
	fail(7, 'author', '78', 'S', 'no time', true),
	fail(8, 'author', '79', 'S', '2026-11-23T00:00:00+00:00', true),
	fail(9, 'author', '79', 'S', '2026-11-23T00:00:00+00:00', true, 'when'),
	fail(10, 'author', '80', 'S', '2026-11-23T00:00:00+00:00', true),
	fail(11, 'author', '81', 'S', '2026-11-23T00:00:00+00:00', true);
INSERT INTO cqrs.failed SELECT 12, cqrs_id, '79', signal_type, 'no message', NULL, false,
	now(), now(), 1, NULL, NULL, 'bad' FROM cqrs.failed WHERE id = 8;
SELECT cqrs_deleted_sync_replica(ARRAY['author,2026-11-24 00:00:00+00:00', '[77,78]', '[79,80]']);
SELECT string_agg(id::text, ' ' ORDER BY id) FROM cqrs.failed;
SELECT id FROM copy ORDER BY id;
-- A transaction that keeps its snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs_deleted_sync_replica(ARRAY['author,2026-11-24 00:00:00+00:00', '[81]']);
SELECT string_agg(id::text, ' ' ORDER BY id) FROM cqrs.failed;
ROLLBACK;
SELECT count(*) FROM cqrs.failed WHERE id = 11;
DELETE FROM cqrs.failed;
-- With a handler a DELETE waits for earlier messages, and so does the row here.
-- What a handler has dealt with removes nothing; a row that is absent, dead letters.
CREATE TABLE handled (id int PRIMARY KEY, name text);
CREATE FUNCTION handle_row(m cqrs.message) RETURNS boolean LANGUAGE sql AS $$
	INSERT INTO public.seen VALUES (m.signal_type || ' ' || m.instance_pk::text);
	SELECT public.cqrs_apply(m) IS NOT NULL
$$;
SELECT cqrs_register_replica('handled', handler => 'handle_row');
INSERT INTO handled SELECT i, 'gone', 0, '2026-11-22 00:00Z' FROM generate_series(1, 4) i;
TRUNCATE seen;
SELECT fail(1, 'handled', '1', 'S', '2026-11-23T00:00:00+00:00', true),
	fail(2, 'handled', '1', 'S', '2026-11-23T00:00:00+00:00', false),
	fail(3, 'handled', '2', 'S', '2026-11-23T00:00:00+00:00', false),
	fail(4, 'handled', '3', 'S', '2026-11-25T00:00:00+00:00', true),
	fail(5, 'handled', '5', 'S', '2026-11-23T00:00:00+00:00', false),
	fail(6, 'handled', '6', 'S', '2026-11-23T00:00:00+00:00', false),
	fail(7, 'handled', '6', 'S', '2026-11-23T00:00:00+00:00', true);
SELECT cqrs_deleted_sync_replica(ARRAY['handled,2026-11-24 00:00:00+00:00', '[1,2,3,4,5,6]']);
TABLE seen;
SELECT string_agg(id::text, ' ' ORDER BY id) FROM cqrs.failed;
SELECT id FROM handled ORDER BY id;
DELETE FROM cqrs.failed;
DROP TABLE handled CASCADE;
DROP FUNCTION handle_row;
-- Another owner's triggers, which call it for the same row.
TRUNCATE copy;
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE INFO 'again %', public.cqrs_deleted_sync_replica(ARRAY['author,2026-11-24 00:00:00+00:00', format('[%s]', OLD.id)]);
	RETURN NULL;
END $$;
CREATE TRIGGER again AFTER DELETE ON copy FOR EACH ROW EXECUTE FUNCTION again();
INSERT INTO copy VALUES (77, 'gone', 0, '2026-11-22 00:00Z');
SELECT fail(1, 'author', '77', 'S', '2026-11-23T00:00:00+00:00', true);
SELECT cqrs_deleted_sync_replica(ARRAY['author,2026-11-24 00:00:00+00:00', '[77,77]']);
SELECT count(*) FROM cqrs.failed;
DROP TRIGGER again ON copy;
DROP FUNCTION again;
CALL cqrs_bulk_load(dump());

-- Rights: SELECT on the table to compare, its owner to write.  Triggers run
-- with the owner's rights, constraint triggers too.
CREATE ROLE regress_owner;
CREATE ROLE regress_reader;
ALTER TABLE copy OWNER TO regress_owner;
GRANT SELECT ON copy TO regress_reader;
CREATE TABLE who (name text);
GRANT INSERT ON who TO regress_owner;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.who VALUES (current_user || ' ' || TG_OP || ' ' || current_setting('search_path')); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER note AFTER INSERT OR DELETE ON copy DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION note();
DELETE FROM copy WHERE id > 1;
TRUNCATE who;
CALL cqrs_bulk_load(ARRAY['author', line('2', 'b')]);
SELECT fail(1, 'author', '3', 'S', '2026-11-23T00:00:00+00:00', true);
SELECT cqrs_deleted_sync_replica(ARRAY['author,2026-11-24 00:00:00+00:00', '[2]']);
TABLE who;
-- Not even one that such a trigger defers runs with the caller's rights.
CREATE TABLE again (n int);
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.who VALUES (current_user || ' again ' || NEW.n);
	IF NEW.n = 1 THEN
		SET CONSTRAINTS ALL DEFERRED;
		INSERT INTO public.again VALUES (2);
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER again AFTER INSERT ON again DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION again();
CREATE FUNCTION first() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN INSERT INTO public.again VALUES (1); RETURN NULL; END$$;
CREATE TRIGGER first AFTER INSERT OR DELETE ON copy FOR EACH ROW EXECUTE FUNCTION first();
GRANT ALL ON again, who TO regress_owner;
TRUNCATE who;
CALL cqrs_bulk_load(ARRAY['author', line('2', 'b')]);
TABLE who;
-- One that defers nothing does, with the owner's.
CREATE OR REPLACE FUNCTION first() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN INSERT INTO public.again VALUES (3); RETURN NULL; END$$;
CALL cqrs_bulk_load(ARRAY['author', line('2', 'b')]);
SELECT cqrs_deleted_sync_replica(ARRAY['author,2026-11-24 00:00:00+00:00', '[2]']);
TABLE who;
DROP TRIGGER first ON copy;
DROP TABLE again;
DROP FUNCTION again, first;
DROP TRIGGER note ON copy;
-- Nothing stays in the session of the caller.
CREATE TABLE command (n int GENERATED ALWAYS AS IDENTITY, command text);
INSERT INTO command (command) VALUES
	('DECLARE held CURSOR WITH HOLD FOR SELECT 1'),
	('CREATE TEMP TABLE t ()'),
	('CREATE TABLE pg_temp.t ()'),
	('SET search_path = pg_temp; CREATE TABLE t ()'),
	('CREATE TEMP TABLE t AS SELECT 1'),
	('CREATE TEMP VIEW t AS SELECT 1'),
	('CREATE TEMP SEQUENCE t'),
	('CREATE TYPE pg_temp.t AS (a int)'),
	('CREATE TYPE pg_temp.t AS ENUM ()'),
	('CREATE TYPE pg_temp.t AS RANGE (subtype = int)'),
	('CREATE TYPE pg_temp.t'),
	('CREATE DOMAIN pg_temp.text AS pg_catalog.text'),
	('CREATE FUNCTION pg_temp.t() RETURNS int LANGUAGE sql RETURN 1'),
	('PREPARE t AS SELECT 1'),
	('LISTEN t'),
	('DECLARE ends CURSOR FOR SELECT 1'),
	('SET work_mem = 64; SET CONSTRAINTS ALL IMMEDIATE');
CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	c text;
BEGIN
	FOR c IN SELECT command FROM public.command ORDER BY n LOOP
		BEGIN
			EXECUTE c;
			INSERT INTO public.who VALUES ('done: ' || c);
		EXCEPTION WHEN insufficient_privilege THEN
			INSERT INTO public.who VALUES (SQLERRM);
		END;
	END LOOP;
	RETURN NULL;
END $$;
CREATE TRIGGER leave AFTER INSERT OR DELETE ON copy FOR EACH ROW EXECUTE FUNCTION leave();
GRANT SELECT ON command TO regress_owner;
TRUNCATE who;
CALL cqrs_bulk_load(ARRAY['author', line('2', 'b')]);
TABLE who;
DELETE FROM command WHERE command !~ 'HOLD';
TRUNCATE who;
SELECT cqrs_deleted_sync_replica(ARRAY['author,2026-11-24 00:00:00+00:00', '[2]']);
SELECT cqrs_apply(ROW('SAVE', 'author', line('9', 'i'), NULL, '9', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message);
TABLE who;
-- In the owner's own session, it may.
TRUNCATE who;
GRANT SELECT ON who TO regress_owner;
SET ROLE regress_owner;
CALL cqrs_bulk_load(ARRAY['author', line('2', 'b')]);
RESET ROLE;
TABLE who;
SELECT name FROM pg_cursors WHERE is_holdable;
CLOSE held;
DROP TRIGGER leave ON copy;
DELETE FROM copy WHERE id IN (2, 9);
DROP TABLE command;
DROP FUNCTION leave;
SET ROLE regress_reader;
SELECT test_error($$CALL cqrs_bulk_load('{author}'::text[])$$);
SELECT test_error($$SELECT cqrs_deleted_sync_replica('{"author,2026-11-24 00:00:00+00:00","[1]"}')$$);
SELECT undated(l) FROM cqrs_deleted_diff_replica('author') l;
SELECT count(*) FROM cqrs_diff_replica('{"author,2026-11-24 00:00:00+00:00","[[1,0]]"}');
SELECT test_error($$SELECT cqrs_deleted_sync_replica('{"author,2026-11-24 00:00:00+00:00","[3]"}')$$);
SET ROLE regress_owner;
SELECT test_error('TABLE cqrs.failed');
SELECT cqrs_deleted_sync_replica('{"author,2026-11-24 00:00:00+00:00","[3]"}');
SELECT test_error($$CALL cqrs_bulk_load('/tmp/x')$$);
CALL cqrs_bulk_load('{author}'::text[]);
RESET ROLE;
SELECT count(*) FROM cqrs.failed;
ALTER TABLE copy ENABLE ROW LEVEL SECURITY;
SET ROLE regress_reader;
SELECT test_error($$SELECT cqrs_deleted_diff_replica('author')$$);
RESET ROLE;
DROP TABLE author, copy, measure, place, place_copy, seen, who CASCADE;
SELECT cqrs_unregister_replica('event');
DROP FUNCTION handle, note, fail, line(text, text), many, dump(), dump(text), undated;
DROP ROLE regress_owner, regress_reader;

-- What a role can put under a function that runs, into its arguments, or in
-- the way of the names that the install script uses.
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

DROP TABLE alice.o;
RESET ROLE;

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
SELECT pg_catalog.count(pid) FROM cqrs.lanes;
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

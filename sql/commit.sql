-- The end of a transaction: messages are made where deferred triggers fire, and
-- as the last of these (I1).
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = warning;
SELECT test_skip();
CREATE TABLE c (id int PRIMARY KEY, v text);
SELECT cqrs_register('c');

-- A function of a master reads a foreign table.
CREATE EXTENSION postgres_fdw;
DO $$
BEGIN
	EXECUTE format('CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname %L, host %L, port %L)',
		current_database(), split_part(current_setting('unix_socket_directories'), ',', 1),
		current_setting('port'));
END
$$;
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;
CREATE TABLE log (v text);
CREATE FOREIGN TABLE foreign_log (v text) SERVER loopback OPTIONS (table_name 'log');
CREATE TABLE h (id int PRIMARY KEY, v text);
CREATE FUNCTION h_foreign(h) RETURNS jsonb LANGUAGE sql STABLE AS
	$$SELECT jsonb_build_object('id', $1.id, 'log', (SELECT count(*) FROM public.foreign_log))$$;
SELECT cqrs_register('h', serializer => 'h_foreign');
INSERT INTO h VALUES (1, 'a');
BEGIN;
INSERT INTO foreign_log VALUES ('here');
INSERT INTO h VALUES (2, 'a');
COMMIT;
SELECT test_messages();
BEGIN;
INSERT INTO h VALUES (3, 'a');
PREPARE TRANSACTION 'foreign';
SELECT count(*) FROM pg_prepared_xacts;
SELECT count(*) FROM h WHERE id = 3;

-- A function of a master fails: what the transaction has written to a foreign
-- table is rolled back as well.
CREATE FUNCTION h_fails(h) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF $1.v = 'bad' THEN
		RAISE EXCEPTION 'bad row';
	END IF;
	RETURN jsonb_build_object('id', $1.id);
END
$$;
SELECT cqrs_alter('h', '{"serializer": "h_fails"}');
BEGIN;
INSERT INTO foreign_log VALUES ('lost');
INSERT INTO h VALUES (4, 'bad');
COMMIT;
TABLE log;
SELECT count(*) FROM h WHERE id = 4;

-- A function of a master leaves a cursor open.
CREATE FUNCTION h_cursor(h) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
	left_open CURSOR FOR SELECT id FROM public.h ORDER BY id;
	first int;
BEGIN
	left_open := 'left_open';
	OPEN left_open;
	FETCH left_open INTO first;
	RETURN jsonb_build_object('id', $1.id, 'first', first);
END
$$;
SELECT cqrs_alter('h', '{"serializer": "h_cursor"}');
INSERT INTO h VALUES (5, 'a');
SELECT count(*) FROM pg_cursors;
SELECT count(*) FROM h;
FETCH left_open;
SELECT count(*) FROM h;
SELECT cqrs_alter('h', '{"on_error": "park"}');
INSERT INTO h VALUES (6, 'a');
SELECT count(*) FROM pg_cursors;
SELECT test_messages();
SELECT cqrs_unregister('h');

-- Deferred triggers of others change masters, in as many rounds as they like:
-- one message for each row, of its last state.
CREATE TABLE other (id int, n int);
CREATE FUNCTION other_deferred() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE c SET v = v || new.n WHERE id = new.id;
	IF new.n < 3 THEN
		INSERT INTO other VALUES (new.id, new.n + 1);
	END IF;
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER other_deferred AFTER INSERT ON other
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION other_deferred();
BEGIN;
INSERT INTO c VALUES (1, 'a'), (2, 'a');
INSERT INTO other VALUES (1, 1);
COMMIT;
SELECT test_messages();
-- Only a deferred trigger changes a master.
INSERT INTO other VALUES (2, 2);
SELECT test_messages();
BEGIN;
INSERT INTO other VALUES (2, 3);
UPDATE c SET v = 'b' WHERE id = 2;
PREPARE TRANSACTION 'deferred';
COMMIT PREPARED 'deferred';
SELECT test_messages();

-- A statement fires a deferred trigger that fires ours: a data-modifying CTE.
WITH first AS (UPDATE c SET v = 'cte' WHERE id = 1 RETURNING id)
INSERT INTO other SELECT id, 3 FROM first;
SELECT test_messages();

-- SET CONSTRAINTS in the middle does not split a transaction's messages.
BEGIN;
INSERT INTO c VALUES (10, 'a');
SET CONSTRAINTS ALL IMMEDIATE;
SELECT count(*) FROM test_messages();
SET CONSTRAINTS ALL IMMEDIATE;
UPDATE c SET v = 'b' WHERE id = 10;
SET CONSTRAINTS ALL DEFERRED;
SET CONSTRAINTS ALL IMMEDIATE;
UPDATE c SET v = 'c' WHERE id = 10;
SELECT count(*) FROM test_messages();
COMMIT;
SELECT test_messages();
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
INSERT INTO c VALUES (11, 'a');
UPDATE c SET v = 'b' WHERE id = 11;
SELECT cqrs_sync('c', 'id = 11');
SELECT count(*) FROM test_messages();
COMMIT;
SELECT test_messages();
-- In and around savepoints that are taken back.
BEGIN;
SAVEPOINT s;
INSERT INTO c VALUES (12, 'a');
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK TO s;
INSERT INTO c VALUES (12, 'b');
SAVEPOINT t;
SET CONSTRAINTS ALL IMMEDIATE;
UPDATE c SET v = 'c' WHERE id = 12;
SAVEPOINT u;
SET CONSTRAINTS ALL IMMEDIATE;
UPDATE c SET v = 'd' WHERE id = 12;
ROLLBACK TO t;
UPDATE c SET v = 'e' WHERE id = 12;
COMMIT;
SELECT test_messages();
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
SAVEPOINT s;
INSERT INTO c VALUES (13, 'a');
ROLLBACK TO s;
UPDATE c SET v = 'f' WHERE id = 12;
RELEASE s;
PREPARE TRANSACTION 'immediate';
COMMIT PREPARED 'immediate';
SELECT test_messages();
-- By a name, by somebody without rights on anything of ours.
CREATE ROLE regress_c;
GRANT ALL ON c TO regress_c;
REVOKE USAGE ON SCHEMA cqrs FROM PUBLIC;
SET ROLE regress_c;
BEGIN;
INSERT INTO c VALUES (14, 'a');
SET CONSTRAINTS ALL IMMEDIATE;
UPDATE c SET v = 'b' WHERE id = 14;
COMMIT;
RESET ROLE;
GRANT USAGE ON SCHEMA cqrs TO PUBLIC;
SET ROLE regress_c;
BEGIN;
INSERT INTO c VALUES (15, 'a');
SET CONSTRAINTS cqrs.at_commit IMMEDIATE;
UPDATE c SET v = 'b' WHERE id = 15;
COMMIT;
RESET ROLE;
SELECT test_messages();
-- By a deferred trigger, which then goes on.
CREATE TABLE meddler (id int);
CREATE FUNCTION meddler_deferred() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	SET CONSTRAINTS ALL IMMEDIATE;
	UPDATE c SET v = 'meddled' WHERE id = new.id;
	SET CONSTRAINTS ALL IMMEDIATE;
	UPDATE c SET v = 'meddled twice' WHERE id = new.id;
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER meddler_deferred AFTER INSERT ON meddler
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION meddler_deferred();
BEGIN;
UPDATE c SET v = 'before' WHERE id = 1;
INSERT INTO meddler VALUES (1);
COMMIT;
SELECT test_messages();
BEGIN;
INSERT INTO meddler VALUES (2), (1);
UPDATE c SET v = 'before' WHERE id = 1;
COMMIT;
SELECT test_messages();

-- A cursor that outlives its transaction is read when that ends; what functions
-- in it change comes after all else.
CREATE FUNCTION change_c(k int) RETURNS int LANGUAGE sql AS
	$$UPDATE c SET v = v || '+' WHERE id = k RETURNING id$$;
BEGIN;
UPDATE c SET v = 'held' WHERE id IN (1, 2);
DECLARE held CURSOR WITH HOLD FOR SELECT change_c(i) FROM generate_series(2, 2) i;
COMMIT;
FETCH ALL FROM held;
CLOSE held;
SELECT test_messages();
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT change_c(i) FROM generate_series(2, 2) i;
COMMIT;
CLOSE held;
SELECT test_messages();

-- Procedures, and transactions without a block.
CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$
BEGIN
	UPDATE c SET v = 'p1' WHERE id = 1;
	COMMIT;
	UPDATE c SET v = 'p2' WHERE id = 1;
	UPDATE c SET v = 'p3' WHERE id = 1;
	ROLLBACK;
	UPDATE c SET v = 'p4' WHERE id = 1;
	INSERT INTO other VALUES (1, 3);
END
$$;
CALL steps();
SELECT test_messages();
COPY c FROM stdin;
20	copied	0	2026-01-01
\.
SELECT test_messages();

-- A function of a materialized view may not defer triggers; ours is none of its
-- business.
CREATE FUNCTION refreshed() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.c VALUES (21, 'refreshed');
	RETURN 1;
END
$$;
CREATE MATERIALIZED VIEW refreshes AS SELECT refreshed() WITH NO DATA;
REFRESH MATERIALIZED VIEW refreshes;
SELECT test_messages();
DROP MATERIALIZED VIEW refreshes;

-- Whatever session_replication_role is.
SELECT cqrs_alter('c', '{"replication": "always"}');
SET session_replication_role = replica;
INSERT INTO c VALUES (22, 'replica');
RESET session_replication_role;
SELECT cqrs_alter('c', '{"replication": "origin"}');
SELECT test_messages();

-- Nothing is made of rows in cqrs.at_commit; masters cannot be changed without
-- its trigger, which cannot go while it is to fire.
INSERT INTO cqrs.at_commit DEFAULT VALUES;
BEGIN;
INSERT INTO cqrs.at_commit DEFAULT VALUES;
INSERT INTO c VALUES (23, 'a');
INSERT INTO cqrs.at_commit DEFAULT VALUES;
COMMIT;
SELECT test_messages();
DELETE FROM cqrs.at_commit;
BEGIN;
ALTER TABLE cqrs.at_commit DISABLE TRIGGER at_commit;
SELECT test_error($$INSERT INTO c VALUES (24, 'a')$$);
ROLLBACK;
BEGIN;
INSERT INTO c VALUES (24, 'a');
ALTER TABLE cqrs.at_commit DISABLE TRIGGER at_commit;
ROLLBACK;
-- When it is missing, what the hint says makes it anew.
BEGIN;
DROP TRIGGER at_commit ON cqrs.at_commit;
SELECT test_error($$INSERT INTO c VALUES (24, 'a')$$);
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON cqrs.at_commit
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_at_commit();
ALTER TABLE cqrs.at_commit ENABLE ALWAYS TRIGGER at_commit;
INSERT INTO c VALUES (24, 'a');
COMMIT;
SELECT test_messages();

DROP SERVER loopback CASCADE;
DROP EXTENSION postgres_fdw;
DROP FUNCTION h_foreign, h_fails, h_cursor;
DROP TABLE c, h, log, other, meddler;
DROP ROLE regress_c;

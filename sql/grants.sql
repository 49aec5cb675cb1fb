-- Who may do what: the table in docs/reference.md.
\pset format unaligned
\pset null NULL
SET client_min_messages = error;
CREATE ROLE regress_owner;
CREATE ROLE regress_writer;
CREATE ROLE regress_monitor IN ROLE pg_monitor;
CREATE ROLE regress_stranger;
CREATE ROLE regress_super SUPERUSER;
GRANT EXECUTE ON FUNCTION test_error(text) TO PUBLIC;
CREATE TABLE master (id int PRIMARY KEY, v text);
CREATE TABLE plain (id int PRIMARY KEY);
ALTER TABLE master OWNER TO regress_owner;
ALTER TABLE plain OWNER TO regress_owner;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON master, plain TO regress_writer;
CREATE FUNCTION master_json(master) RETURNS json LANGUAGE sql STABLE AS $$SELECT '{}'::json$$;
SELECT cqrs_register('master');
SELECT cqrs_register('master', 'custom', serializer => 'master_json');
INSERT INTO master VALUES (1, 'a');
CREATE TABLE replica (id int PRIMARY KEY);
ALTER TABLE replica OWNER TO regress_owner;
SELECT cqrs_register_replica('replica');
CREATE FUNCTION test_delete() RETURNS text LANGUAGE sql AS $$
	SELECT '{"signal_type":"DELETE","cqrs_id":"replica","instance_pk":1,"instance_data":{"id":1,"cqrs_revision":1,"cqrs_updated":"2026-11-23T00:00:00Z"}}'
$$;

CREATE TABLE probe (number int GENERATED ALWAYS AS IDENTITY, object text,
	what text, command text);
INSERT INTO probe (object, what, command) VALUES
	('public.cqrs_wait_published', 'cqrs_wait_published', $$SELECT cqrs_wait_published('0')$$),
	('public.cqrs_register', 'cqrs_register', $$SELECT cqrs_register('plain')$$),
	('public.cqrs_alter', 'cqrs_alter', $$SELECT cqrs_alter('master', '{}')$$),
	('public.cqrs_unregister', 'cqrs_unregister', $$SELECT cqrs_unregister('master')$$),
	(NULL, 'DROP COLUMN of a master', 'ALTER TABLE master DROP COLUMN v'),
	(NULL, 'RENAME COLUMN of a master', 'ALTER TABLE master RENAME COLUMN v TO w'),
	(NULL, 'INSERT into a master', $$INSERT INTO master VALUES (2, 'b')$$),
	(NULL, 'UPDATE of a master', $$UPDATE master SET v = 'c'$$),
	(NULL, 'DELETE from a master', 'DELETE FROM master'),
	(NULL, 'TRUNCATE of a master', 'TRUNCATE master'),
	('public.cqrs_sync', 'cqrs_sync(cqrs_id)', $$SELECT cqrs_sync('master')$$),
	('public.cqrs_sync', 'cqrs_sync(row)', 'SELECT cqrs_sync(m) FROM master m'),
	('public.cqrs_alter', 'an exchange of its own', $$SELECT cqrs_alter('master', '{"exchange": "x"}')$$),
	('public.cqrs_sync_all', 'cqrs_sync_all (see below)', $$CALL cqrs_sync_all('master')$$),
	('public.cqrs_bulk_dump', 'cqrs_bulk_dump', $$SELECT cqrs_bulk_dump('master')$$),
	('public.cqrs_bulk_dump', 'cqrs_bulk_dump by a serializer', $$SELECT cqrs_bulk_dump('custom')$$),
	('public.cqrs_bulk_dump', 'cqrs_bulk_dump into a file', $$SELECT cqrs_bulk_dump('master', '/nonexistent/file')$$),
	('public.cqrs_diff_master', 'cqrs_diff_master', $$SELECT cqrs_diff_master('master')$$),
	('public.cqrs_diff_sync', 'cqrs_diff_sync', $$SELECT cqrs_diff_sync('{"master,2026-11-23 06:01:02+00:00,None","[1]"}')$$),
	('public.cqrs_deleted_diff_master', 'cqrs_deleted_diff_master',
		$$SELECT cqrs_deleted_diff_master('{"master,2026-11-23 06:01:02+00:00","[1]"}')$$),
	('public.cqrs_relation', 'cqrs_relation', $$SELECT cqrs_relation('master')$$),
	('public.cqrs_apply', 'cqrs_apply', $$SELECT cqrs_apply(cqrs.parse_message(test_delete()))$$),
	('public.cqrs_wait_applied', 'cqrs_wait_applied (see below)', $$CALL cqrs_wait_applied('replica', '1', 0, '0')$$),
	('public.cqrs_diff_replica', 'cqrs_diff_replica', $$SELECT cqrs_diff_replica('{"replica,2026-11-23 06:01:02+00:00"}')$$),
	('public.cqrs_deleted_diff_replica', 'cqrs_deleted_diff_replica', $$SELECT cqrs_deleted_diff_replica('replica')$$),
	('public.cqrs_deleted_sync_replica', 'cqrs_deleted_sync_replica',
		$$SELECT cqrs_deleted_sync_replica('{"replica,2026-11-23 06:01:02+00:00"}')$$),
	('public.cqrs_bulk_load', 'cqrs_bulk_load', $$CALL cqrs_bulk_load('{replica}'::text[])$$),
	('public.cqrs_bulk_load', 'cqrs_bulk_load from a file', $$CALL cqrs_bulk_load('/nonexistent/file')$$),
	('public.cqrs_current_message', 'cqrs_current_message', 'SELECT cqrs_current_message()'),
	('cqrs.parse_message', 'cqrs.parse_message', 'SELECT cqrs.parse_message(test_delete())'),
	('cqrs.deliver', 'cqrs.deliver', 'SELECT cqrs.deliver(cqrs.parse_message(test_delete()))'),
	('public.cqrs_to_json', 'cqrs_to_json', $$SELECT cqrs_to_json(ROW(1, 'a', 0, now())::master, 'master')$$),
	('public.cqrs_to_json', 'cqrs_to_json by a serializer', $$SELECT cqrs_to_json(ROW(1, 'a', 0, now())::master, 'custom')$$),
	('public.cqrs_is_initial_save', 'cqrs_is_initial_save', $$SELECT cqrs_is_initial_save(ROW(1, 'a', 0, now())::master)$$),
	('public.cqrs_flush', 'cqrs_flush', 'SELECT cqrs_flush()'),
	('public.cqrs_check', 'cqrs_check', 'SELECT cqrs_check()'),
	('cqrs.check_master', 'cqrs.check_master', $$SELECT cqrs.check_master('master')$$),
	('cqrs.url_is_set', 'cqrs.url_is_set', 'SELECT cqrs.url_is_set()'),
	('public.cqrs_retry_parked', 'cqrs_retry_parked', 'SELECT cqrs_retry_parked()'),
	('public.cqrs_park_held', 'cqrs_park_held', $$SELECT cqrs_park_held('master')$$),
	('public.cqrs_adopt', 'cqrs_adopt', 'SELECT cqrs_adopt()'),
	('public.cqrs_pause', 'cqrs_pause', 'SELECT cqrs_pause()'),
	('public.cqrs_resume', 'cqrs_resume', 'SELECT cqrs_resume()'),
	('cqrs.stats', 'SELECT cqrs.stats', 'TABLE cqrs.stats'),
	('cqrs.lanes', 'SELECT cqrs.lanes', 'TABLE cqrs.lanes'),
	('cqrs.publisher_stats', 'cqrs.publisher_stats', 'SELECT cqrs.publisher_stats()'),
	('cqrs.progress_sync', 'SELECT cqrs.progress_sync', 'TABLE cqrs.progress_sync'),
	('cqrs.parked', 'SELECT cqrs.parked', 'TABLE cqrs.parked'),
	('cqrs.parked', 'DELETE cqrs.parked', 'DELETE FROM cqrs.parked'),
	('cqrs.skipped', 'SELECT cqrs.skipped', 'TABLE cqrs.skipped'),
	('cqrs.skipped', 'INSERT cqrs.skipped', 'INSERT INTO cqrs.skipped VALUES (1)'),
	('cqrs.former', 'SELECT cqrs.former', 'TABLE cqrs.former'),
	('cqrs.former', 'DELETE cqrs.former', 'DELETE FROM cqrs.former'),
	('cqrs.outbox', 'SELECT cqrs.outbox', 'TABLE cqrs.outbox'),
	('cqrs.segment_0', 'SELECT cqrs.segment_0', 'TABLE cqrs.segment_0'),
	('cqrs.segment_1', 'SELECT cqrs.segment_1', 'TABLE cqrs.segment_1'),
	('cqrs.segment_2', 'SELECT cqrs.segment_2', 'TABLE cqrs.segment_2'),
	('cqrs.segment_0', 'INSERT cqrs.segment_0',
		$$INSERT INTO cqrs.segment_0 VALUES (1, 1, now(), '')$$),
	('cqrs.segment_0', 'TRUNCATE cqrs.segment_0', 'TRUNCATE cqrs.segment_0'),
	('cqrs.master', 'SELECT cqrs.master', 'TABLE cqrs.master'),
	('cqrs.master', 'INSERT cqrs.master',
		$$INSERT INTO cqrs.master (cqrs_id, relation, produce) VALUES ('x', 'plain', true)$$),
	('cqrs.master', 'COPY cqrs.master', $$COPY cqrs.master FROM '/dev/null'$$),
	('cqrs.master', 'UPDATE cqrs.master', 'UPDATE cqrs.master SET produce = false'),
	('cqrs.master', 'DELETE cqrs.master', 'DELETE FROM cqrs.master'),
	('cqrs.master', 'TRUNCATE cqrs.master', 'TRUNCATE cqrs.master'),
	('cqrs.publisher', 'SELECT cqrs.publisher', 'TABLE cqrs.publisher'),
	('cqrs.publisher', 'UPDATE cqrs.publisher', 'UPDATE cqrs.publisher SET paused = true'),
	('cqrs.at_commit', 'INSERT cqrs.at_commit', 'INSERT INTO cqrs.at_commit DEFAULT VALUES'),
	('cqrs.watermark', 'SELECT cqrs.watermark', 'SELECT last_value FROM cqrs.watermark'),
	('cqrs.watermark', 'setval(cqrs.watermark)', $$SELECT setval('cqrs.watermark', 1)$$),
	('cqrs.key_json', 'cqrs.key_json', 'SELECT cqrs.key_json(1)'),
	('cqrs.current_watermark', 'cqrs.current_watermark', 'SELECT cqrs.current_watermark()'),
	('cqrs.unpack', 'cqrs.unpack', $$SELECT cqrs.unpack(1, '')$$),
	('cqrs.wake_publisher', 'cqrs.wake_publisher', 'SELECT cqrs.wake_publisher()'),
	('cqrs.trigger_update', 'trigger_update on an own table',
		'CREATE TRIGGER t BEFORE UPDATE ON own FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_update()'),
	('cqrs.trigger_insert_delete', 'trigger_insert_delete on an own table',
		'CREATE TRIGGER t AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_insert_delete()'),
	('cqrs.trigger_truncate', 'trigger_truncate on an own table',
		'CREATE TRIGGER t BEFORE TRUNCATE ON own EXECUTE FUNCTION cqrs.trigger_truncate()'),
	('cqrs.trigger_at_commit', 'trigger_at_commit on an own table',
		'CREATE TRIGGER t AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_at_commit()'),
	('cqrs.trigger_discard', 'trigger_discard on an own table',
		'CREATE TRIGGER t BEFORE INSERT ON own FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard()'),
	('cqrs.trigger_loaded', 'trigger_loaded on an own table',
		'CREATE TRIGGER t AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_loaded()'),
	('cqrs.forget_dropped', 'forget_dropped in an event trigger',
		'CREATE EVENT TRIGGER t ON sql_drop EXECUTE FUNCTION cqrs.forget_dropped()'),
	('cqrs.follow_created', 'follow_created in an event trigger',
		'CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION cqrs.follow_created()'),
	('cqrs.follow_partitions', 'cqrs.follow_partitions', $$SELECT cqrs.follow_partitions('master')$$),
	(NULL, 'a table in the schema cqrs', 'CREATE TABLE cqrs.intruder ()'),
	(NULL, 'SET cqrs.produce', 'SET cqrs.produce = off'),
	(NULL, 'SET cqrs.allowed_exchanges', $$SET cqrs.allowed_exchanges = '*'$$),
	(NULL, 'SET cqrs.correlation_id', $$SET cqrs.correlation_id = 'x'$$),
	(NULL, 'SET cqrs.correlation_function', $$SET cqrs.correlation_function = 'x.y'$$),
	(NULL, 'SET cqrs.meta_function', $$SET cqrs.meta_function = 'x.y'$$),
	(NULL, 'SHOW cqrs.url', 'SHOW cqrs.url');

-- "yes", "no" (insufficient privilege), or another error; nothing is done.
CREATE FUNCTION attempt(role name, command text) RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	CREATE TEMP TABLE own (id int, cqrs_id text, relation regclass) ON COMMIT DROP;
	EXECUTE command;
	RAISE 'done' USING ERRCODE = 'DONE1';
EXCEPTION
	WHEN SQLSTATE 'DONE1' THEN RETURN 'yes';
	WHEN insufficient_privilege THEN RETURN 'no';
	WHEN OTHERS THEN RETURN SQLSTATE;
END
$$;

SELECT what, attempt('regress_owner', command) AS owner,
		attempt('regress_writer', command) AS writer,
		attempt('regress_monitor', command) AS monitor,
		attempt('regress_stranger', command) AS stranger,
		attempt('regress_super', command) AS superuser
	FROM probe ORDER BY number;

-- Functions, tables and views of the extension that are not tried here (test 041 tries them).
\pset tuples_only on
SELECT name FROM (
	SELECT pronamespace::regnamespace || '.' || proname, oid, 'pg_proc'::regclass
		FROM pg_proc
	UNION ALL SELECT relnamespace::regnamespace || '.' || relname, oid, 'pg_class'::regclass
		FROM pg_class) o (name, objid, classid)
	JOIN pg_depend USING (objid, classid)
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs')
		AND name NOT IN (SELECT object FROM probe WHERE object IS NOT NULL)
	ORDER BY name COLLATE "C";

-- Everything that anybody but the extension's owner has been granted.
SELECT name, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
		string_agg(privilege_type, ' ' ORDER BY privilege_type)
	FROM (SELECT p.oid::regprocedure::text, 'pg_proc'::regclass, p.oid, proowner,
			coalesce(proacl, acldefault('f', proowner)) FROM pg_proc p
		UNION ALL SELECT c.oid::regclass::text, 'pg_class'::regclass, c.oid, relowner,
			coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))
			FROM pg_class c
		UNION ALL SELECT nspname, 'pg_namespace'::regclass, n.oid, nspowner,
			coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace n)
		o (name, classid, objid, owner, acl)
	JOIN pg_depend USING (classid, objid), aclexplode(acl) a
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs')
		AND a.grantee <> owner
	GROUP BY name, grantee ORDER BY name COLLATE "C", grantee::regrole::text COLLATE "C";

-- A writer cannot keep what he changes from being published: the trigger of
-- cqrs.master does nothing elsewhere, not even for a superuser.
CREATE TEMP TABLE own (cqrs_id text, relation regclass);
CREATE TRIGGER t AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_loaded();
SELECT test_error('INSERT INTO own VALUES (''master'', ''master'')');
SELECT test_error('SELECT cqrs.trigger_loaded()');
DROP TABLE own;

-- What is published does not need more than the rights on the table.
SELECT test_skip();
SET ROLE regress_writer;
UPDATE master SET v = 'w';
SELECT cqrs_sync('master');
RESET ROLE;
SELECT test_messages();

-- cqrs_sync_all cannot be tried in a function.
SET ROLE regress_writer;
CALL cqrs_sync_all('master', 'false');
SET ROLE regress_stranger;
CALL cqrs_sync_all('master', 'false');
RESET ROLE;

-- Nor can cqrs_wait_applied.
SET ROLE regress_owner;
CALL cqrs_wait_applied('replica', '1', 0, '0');
SET ROLE regress_writer;
CALL cqrs_wait_applied('replica', '1', 0, '0');
RESET ROLE;
DROP FUNCTION test_delete;
DROP TABLE master, plain, probe, replica CASCADE;
DROP FUNCTION attempt(name, text);
DROP ROLE regress_owner, regress_writer, regress_monitor, regress_stranger, regress_super;

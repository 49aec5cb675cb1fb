-- The extension's objects, comments and privileges; dropping and creating it.
\pset format unaligned
\pset tuples_only on
SELECT i.type, i.identity
	FROM pg_depend, pg_identify_object(classid, objid, 0) AS i
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs')
		AND i.type NOT LIKE '%type'
	ORDER BY i.type COLLATE "C", i.identity COLLATE "C";

-- Objects without a comment: none.
SELECT i.type, i.identity
	FROM pg_depend, pg_identify_object(classid, objid, 0) AS i
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs')
		AND i.type NOT LIKE '%type'
		AND obj_description(objid, classid::regclass::text::name) IS NULL
	ORDER BY 1, 2;
SELECT name FROM pg_settings
	WHERE name LIKE 'cqrs.%' AND coalesce(short_desc, '') = '';

-- Privileges of anybody, and of a monitor.
CREATE ROLE regress_stranger;
CREATE ROLE regress_monitor IN ROLE pg_monitor;
SET ROLE regress_stranger;
SELECT count(*) FROM cqrs.master;
SELECT count(*) FROM cqrs.outbox;
SELECT count(*) FROM cqrs.segment_0;
SELECT count(*) FROM cqrs.stats;
SELECT count(*) FROM cqrs.publisher;
SELECT * FROM cqrs.publisher_stats();
SELECT cqrs_pause();
SELECT cqrs_resume();
SELECT cqrs_adopt();
INSERT INTO cqrs.master VALUES ('x', 'cqrs.master', NULL, NULL, NULL, NULL, true);
DELETE FROM cqrs.master;
SELECT setval('cqrs.watermark', 10);
SELECT nextval('cqrs.watermark');
SET ROLE regress_monitor;
SELECT count(*) FROM cqrs.stats;
SELECT count(*) FROM cqrs.outbox;
SELECT cqrs_pause();
RESET ROLE;
GRANT EXECUTE ON FUNCTION cqrs_pause(), cqrs_resume() TO regress_stranger;
SET ROLE regress_stranger;
SELECT cqrs_pause();
RESET ROLE;
SELECT paused FROM cqrs.publisher;
SELECT cqrs_resume();
SELECT paused FROM cqrs.publisher;
REVOKE EXECUTE ON FUNCTION cqrs_pause(), cqrs_resume() FROM regress_stranger;

-- What PUBLIC and pg_monitor may do with tables.
SELECT grantee::regrole, privilege_type, c.oid::regclass
	FROM pg_class c, aclexplode(c.relacl) a
	WHERE relnamespace = 'cqrs'::regnamespace AND grantee <> relowner
	ORDER BY c.oid::regclass::text COLLATE "C", 1, 2;

-- The trigger functions are for triggers.
SELECT cqrs.trigger_update();
CREATE TABLE t (id int PRIMARY KEY);
CREATE TRIGGER t AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_update();
INSERT INTO t VALUES (1);
UPDATE t SET id = 2;
DROP TABLE t;

-- While cqrs.url is not set, a session is warned once.
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE b (id int PRIMARY KEY);
SELECT cqrs_register('a');
SELECT cqrs_register('b');
INSERT INTO a VALUES (1);
SELECT count(*) FROM cqrs.outbox;

-- The triggers of masters depend on the extension; their tables stay.
\set VERBOSITY terse
DROP EXTENSION cqrs;
DROP EXTENSION cqrs CASCADE;
\set VERBOSITY default
SELECT tgname FROM pg_trigger WHERE tgrelid IN ('a'::regclass, 'b'::regclass);
INSERT INTO a VALUES (2);
UPDATE a SET id = 3 WHERE id = 2;
TRUNCATE a;
SELECT to_regnamespace('cqrs');

-- Somebody else's schema of that name is none of the extension's.
CREATE SCHEMA cqrs;
CREATE TABLE cqrs.failed (id int);
CREATE INDEX ON cqrs.failed ((id + 1));
ALTER TABLE cqrs.failed ADD COLUMN n int;
ALTER SCHEMA cqrs RENAME TO cqrs_other;
DROP SCHEMA cqrs_other CASCADE;

-- In another schema, and again.
CREATE SCHEMA tools;
CREATE EXTENSION cqrs SCHEMA tools;
SELECT tools.cqrs_register('a');
INSERT INTO a VALUES (4);
SELECT signal_type, instance_pk FROM cqrs.outbox;
SELECT tools.cqrs_sync('a');
SELECT tools.cqrs_unregister('a');
DROP EXTENSION cqrs;
BEGIN;
CREATE EXTENSION cqrs;
ROLLBACK;
CREATE EXTENSION cqrs;
SELECT count(*) FROM cqrs.outbox;
UPDATE test_mark SET id = 0;
SELECT cqrs_register('a');
UPDATE a SET id = 5;
SELECT test_messages();
SELECT cqrs_unregister('a');
DROP TABLE a, b;
DROP SCHEMA tools;
DROP ROLE regress_stranger, regress_monitor;

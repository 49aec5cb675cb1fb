-- Settings: what is accepted, and who sees the URL with its password (I20).
\pset format unaligned
\pset tuples_only on
ALTER SYSTEM SET cqrs.url = 'http://u:secret@h/';
ALTER SYSTEM SET cqrs.url = 'amqps://u:secret@h:0/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h1,,h2/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h1:5672,h2:0/v';
ALTER SYSTEM SET cqrs.unroutable = 'perhaps';
ALTER SYSTEM SET cqrs.url = 'u:secret@h';
ALTER SYSTEM SET cqrs.url = 'amqp://u:sec ret@h/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h/?heartbeat=1';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h/#x';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h:0/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h:65536/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h:port/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret%zz@h/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret%4@h/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret%00@h/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h/%FF';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h/%ED%A0%80';
ALTER SYSTEM SET cqrs.url = 'amqp://u%C3:secret@h/%BC';
ALTER SYSTEM SET cqrs.url = 'amqp://u:sec:ret@h/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:sec/ret@h/';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h/a/b';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@[::1/v';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h[::1]/v';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@h:+1/v';
ALTER SYSTEM SET cqrs.url = 'kafka://h:6379/0';
ALTER SYSTEM SET cqrs.url = '://h/';
-- All of these are accepted.
ALTER SYSTEM SET cqrs.url = 'amqp://%D0%BF:%C3%BC%40@h/%D0%BF%2Fv';
ALTER SYSTEM SET cqrs.url = 'amqp://п:ü@h/п';
ALTER SYSTEM SET cqrs.url = 'amqps://u:@[::1]:5671,h2,[fe80::1]';
ALTER SYSTEM SET cqrs.url = 'amqp://:5673';
ALTER SYSTEM SET cqrs.url = 'amqp://';
ALTER SYSTEM RESET cqrs.url;
-- Those of the other URL are the same.
ALTER SYSTEM SET cqrs.consumer_url = 'amqp://u:sec ret@h/';
ALTER SYSTEM SET cqrs.consumer_url = 'kafka://h:6379/0';
\set ECHO none
SELECT format('ALTER SYSTEM SET cqrs.url = %L', 'amqp://u:secret@h/' || repeat('x', 2048)) \gexec
\set ECHO all
DO $$
BEGIN
	PERFORM set_config('cqrs.url', 'amqp://u:secret@h/', false);
EXCEPTION WHEN OTHERS THEN
	RAISE INFO '% %', SQLSTATE, SQLERRM;
END
$$;
SHOW cqrs.url;
SELECT count(*) FROM pg_settings WHERE name = 'cqrs.url';
SELECT count(*) FROM pg_file_settings WHERE name = 'cqrs.url';
CREATE ROLE regress_other;
CREATE ROLE regress_reader IN ROLE pg_read_all_settings;
SET ROLE regress_other;
-- Texts of errors depend on the version.
\set VERBOSITY sqlstate
SHOW cqrs.url;
SELECT current_setting('cqrs.url');
\set VERBOSITY default
SELECT count(*) FROM pg_settings WHERE name = 'cqrs.url';
SET ROLE regress_reader;
SHOW cqrs.url;
RESET ROLE;

-- The others.
SELECT name, setting, unit, context, min_val, max_val FROM pg_settings
	WHERE name LIKE 'cqrs.%' ORDER BY name COLLATE "C";
ALTER SYSTEM SET cqrs.exchange = '';
ALTER SYSTEM SET cqrs.exchange = 'amq.direct';
\set VERBOSITY sqlstate
ALTER SYSTEM SET cqrs.message_ttl = -1;
ALTER SYSTEM SET cqrs.confirm_window = 0;
ALTER SYSTEM SET cqrs.confirm_window_size = '1kB';
ALTER SYSTEM SET cqrs.heartbeat = '2h';
ALTER SYSTEM SET cqrs.connect_timeout = 1;
ALTER SYSTEM SET cqrs.reconnect_delay = 0;
\set VERBOSITY default
SET cqrs.max_databases = 2;
SET ROLE regress_other;
SET cqrs.produce = off;
SET cqrs.meta_function = 'a.b';
SET cqrs.correlation_function = 'a.b';
SET cqrs.correlation_id = 'anybody may';
SHOW cqrs.correlation_id;
RESET ROLE;
RESET cqrs.correlation_id;
-- The owner of a database gives its publishers and consumers nothing, and takes
-- nothing from them that a superuser has set.
CREATE TABLE known AS SELECT name FROM pg_settings WHERE name ^@ 'cqrs.' AND context <> 'user'
	UNION VALUES ('cqrs.url'), ('cqrs.consumer_url');
GRANT SELECT ON known TO regress_other;
SELECT current_database() AS db \gset
ALTER DATABASE :"db" OWNER TO regress_other;
ALTER DATABASE :"db" SET cqrs.prefetch = 1999;
SET ROLE regress_other;
SELECT name, error FROM known, test_error(format('ALTER DATABASE %I SET %s = 1', :'db', name)) error
	WHERE error !~ '^42501 ' ORDER BY name COLLATE "C", error COLLATE "C";
SELECT test_error(format('ALTER DATABASE %I RESET cqrs.prefetch', :'db')) ~ '^42501 ';
ALTER DATABASE :"db" RESET ALL;
RESET ROLE;
SELECT c FROM pg_db_role_setting, unnest(setconfig) c WHERE c ^@ 'cqrs.';
ALTER DATABASE :"db" RESET cqrs.prefetch;
ALTER DATABASE :"db" OWNER TO CURRENT_USER;
DROP TABLE known;

-- An outbox that has got too large.
CREATE TABLE large (id int PRIMARY KEY, v text);
SET client_min_messages = error;
SELECT cqrs_register('large');
INSERT INTO large SELECT i, (SELECT string_agg(md5(i || ' ' || j), '') FROM generate_series(1, 100) j)
	FROM generate_series(1, 1000) i;
SET cqrs.max_pending_bytes = '1MB';
SET client_min_messages = warning;
\set VERBOSITY sqlstate
UPDATE large SET v = 'warned' WHERE id = 1;
UPDATE large SET v = 'not again so soon' WHERE id = 2;
SET cqrs.outbox_full = refuse;
UPDATE large SET v = 'refused' WHERE id = 3;
SELECT cqrs_sync('large', 'id = 4');
SET cqrs.max_pending_bytes = '1GB';
UPDATE large SET v = 'allowed' WHERE id = 3;
SELECT id, v FROM large WHERE id < 4 ORDER BY id;
RESET cqrs.max_pending_bytes;
RESET cqrs.outbox_full;
SET cqrs.outbox_full = 'perhaps';
\set VERBOSITY default
DROP TABLE large;

-- A URL that is set: whole for superusers, masked for readers of settings.
SHOW cqrs.consumer_url;
ALTER SYSTEM SET cqrs.consumer_url = 'amqp://c:secret@127.0.0.1:1/c';
ALTER SYSTEM SET cqrs.url = 'amqp://u:secret@127.0.0.1:1/v';
SELECT pg_reload_conf();
CREATE EXTENSION dblink;
SELECT test_await_setting('cqrs.url', 'amqp://u:secret@127.0.0.1:1/v');
DROP EXTENSION dblink;
\c
SHOW cqrs.url;
SHOW cqrs.consumer_url;
SELECT count(*) FROM pg_settings WHERE name LIKE 'cqrs.%url' OR setting LIKE '%secret%';
SET ROLE regress_reader;
SHOW cqrs.url;
SHOW cqrs.consumer_url;
SET ROLE regress_other;
\set VERBOSITY sqlstate
SHOW cqrs.url;
SHOW cqrs.consumer_url;
\set VERBOSITY default
RESET ROLE;
ALTER SYSTEM RESET cqrs.url;
ALTER SYSTEM RESET cqrs.consumer_url;
SELECT pg_reload_conf();
DROP ROLE regress_other, regress_reader;

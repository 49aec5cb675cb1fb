-- Replicas: options, what is refused, and changes of the schema below them.
\pset format unaligned
\pset tuples_only on
\pset null NULL
CREATE TABLE author (id int PRIMARY KEY, name text);
INSERT INTO author VALUES (1, 'before');
SELECT cqrs_register_replica('author');
SELECT * FROM cqrs.replica;
SELECT * FROM author;
SELECT attname, format_type(atttypid, atttypmod), attnotnull, atthasdef
	FROM pg_attribute WHERE attrelid = 'author'::regclass AND attnum > 0 ORDER BY attnum;
SELECT relation FROM cqrs.replica WHERE cqrs_id = 'author';
-- Each row counts for the constraint, also one that is older than the column.
SELECT test_error($$INSERT INTO author (id) VALUES (2)$$);

-- Every option; columns that exist are kept, also at other places.
CREATE FUNCTION book_handler(cqrs.message) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION book_retry(m cqrs.message, attempts integer, sqlstate text, error text)
	RETURNS interval LANGUAGE sql AS $$SELECT interval '1 s'$$;
CREATE TABLE book (cqrs_updated timestamptz NOT NULL DEFAULT '2000-01-01 00:00:00+00',
	title text, author_id int, id int PRIMARY KEY, local text, gone timestamptz,
	cqrs_revision int NOT NULL DEFAULT 7);
SELECT cqrs_register_replica('book', 'library.book', fields => '{id,title,author_id}',
	field_map => '{"author_id": "author"}', handler => 'book_handler',
	retry => 'book_retry', max_retries => 5, retry_delay => '1 min',
	only_direct_syncs => true, on_expired => 'apply', exchange => 'library',
	routing_key => 'books', soft_delete => 'gone');
SELECT * FROM cqrs.replica WHERE cqrs_id = 'library.book';
SELECT attname FROM pg_attribute WHERE attrelid = 'book'::regclass AND attnum > 0 ORDER BY attnum;

-- Null stands for the default, and in max_retries for no limit.
CREATE TABLE nulls (id int PRIMARY KEY);
SELECT cqrs_register_replica('nulls', NULL, NULL, NULL, NULL, NULL, NULL, NULL,
	NULL, NULL, NULL, NULL, NULL);
SELECT * FROM cqrs.replica WHERE cqrs_id = 'nulls';
SELECT cqrs_alter_replica('nulls', '{"max_retries": 0, "retry_delay": "30 days"}');
SELECT max_retries, retry_delay FROM cqrs.replica WHERE cqrs_id = 'nulls';
SELECT cqrs_alter_replica('nulls', '{"max_retries": null, "retry_delay": null}');
SELECT max_retries, retry_delay FROM cqrs.replica WHERE cqrs_id = 'nulls';
DROP TABLE nulls;

-- Without a table.
SELECT cqrs_register_replica(NULL, 'log', handler => 'book_handler');
SELECT cqrs_id, relation, handler FROM cqrs.replica WHERE cqrs_id = 'log';

-- cqrs_alter_replica changes what it names.
SELECT cqrs_alter_replica('library.book', '{"handler": null, "retry": "public.book_retry",
	"max_retries": 7, "retry_delay": "5 s", "only_direct_syncs": false,
	"on_expired": null, "exchange": null, "routing_key": "#", "soft_delete": null}');
SELECT * FROM cqrs.replica WHERE cqrs_id = 'library.book';
SELECT cqrs_alter_replica('library.book', '{"fields": null, "field_map": {"title": "name"}}');
SELECT * FROM cqrs.replica WHERE cqrs_id = 'library.book';

-- Tables that cannot follow.
CREATE TABLE refused (id int PRIMARY KEY, a int, b text);
CREATE VIEW state AS SELECT count(*) AS replicas,
	(SELECT count(*) FROM pg_attribute WHERE attname = 'cqrs_revision' AND attrelid > 16384) AS tables
	FROM cqrs.replica;
SELECT * FROM state;
SELECT test_error($$SELECT cqrs_register_replica(NULL)$$);
SELECT test_error($$SELECT cqrs_register_replica(4294967295::regclass)$$);
SELECT test_error($$SELECT cqrs_register_replica('author', 'again')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', 'author')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', 'log')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', 'a b')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', '')$$);
SELECT test_error($$SELECT cqrs_register_replica('state')$$);
-- an index: the message depends on the version
SELECT left(test_error($$SELECT cqrs_register_replica('author_pkey')$$), 5) LIMIT 1;
SELECT test_error($$SELECT cqrs_register_replica('pg_class')$$);
SELECT test_error($$SELECT cqrs_register_replica('information_schema.sql_features')$$);
SELECT test_error($$SELECT cqrs_register_replica('cqrs.replica')$$);
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
SELECT test_error($$SELECT cqrs_register_replica('temporary')$$);
DROP TABLE temporary;
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
SELECT test_error($$SELECT cqrs_register_replica('unlogged')$$);
DROP TABLE unlogged;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE abroad (id int) SERVER nowhere;
SELECT test_error($$SELECT cqrs_register_replica('abroad')$$);
DROP FOREIGN DATA WRAPPER nowhere CASCADE;
CREATE TABLE child () INHERITS (refused);
SELECT test_error($$SELECT cqrs_register_replica('refused')$$);
SELECT test_error($$SELECT cqrs_register_replica('child')$$);
DROP TABLE child;
CREATE TABLE keyless (id int, cqrs_revision int);
SELECT test_error($$SELECT cqrs_register_replica('keyless')$$);
DROP TABLE keyless;
ALTER TABLE refused FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY;
SELECT test_error($$SELECT cqrs_register_replica('refused')$$);
ALTER TABLE refused NO FORCE ROW LEVEL SECURITY;
CREATE TABLE master (id int PRIMARY KEY);
SET client_min_messages = error;
SELECT cqrs_register('master', 'published');
RESET client_min_messages;
SELECT test_error($$SELECT cqrs_register_replica('master')$$);
SELECT test_error($$SELECT cqrs_register('author')$$);
DROP TABLE master;
CREATE TABLE odd (id int PRIMARY KEY, cqrs_revision bigint NOT NULL);
SELECT test_error($$SELECT cqrs_register_replica('odd')$$);
ALTER TABLE odd ALTER cqrs_revision TYPE int, ALTER cqrs_revision DROP NOT NULL;
SELECT test_error($$SELECT cqrs_register_replica('odd')$$);
ALTER TABLE odd DROP cqrs_revision, ADD cqrs_revision int NOT NULL GENERATED ALWAYS AS (id) STORED;
SELECT test_error($$SELECT cqrs_register_replica('odd')$$);
ALTER TABLE odd DROP cqrs_revision, ADD cqrs_revision int GENERATED BY DEFAULT AS IDENTITY;
SELECT test_error($$SELECT cqrs_register_replica('odd')$$);
ALTER TABLE odd DROP cqrs_revision, ADD cqrs_updated timestamp NOT NULL;
SELECT test_error($$SELECT cqrs_register_replica('odd')$$);
DROP TABLE odd;
CREATE TABLE generated (id int GENERATED ALWAYS AS (1) STORED PRIMARY KEY, g int);
SELECT test_error($$SELECT cqrs_register_replica('generated')$$);
DROP TABLE generated;

-- Options that do not fit.
SELECT test_error($$SELECT cqrs_register_replica('refused', fields => '{}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', fields => '{id,NULL}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', fields => '{id,nope}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', fields => '{id,a,id}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', fields => '{a,b}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', field_map => '[]')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', field_map => '{"nope": "a"}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', field_map => '{"a": ""}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', field_map => '{"a": 1}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', field_map => '{"a": "b"}')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', fields => '{id,a}', soft_delete => 'a')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', soft_delete => 'b')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', soft_delete => 'id')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', soft_delete => 'cqrs_updated')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', soft_delete => 'nope')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', soft_delete => '')$$);
CREATE TABLE soft (id int PRIMARY KEY, at timestamptz NOT NULL,
	twice bool GENERATED ALWAYS AS (true) STORED, gone bool NOT NULL);
SELECT test_error($$SELECT cqrs_register_replica('soft', soft_delete => 'at')$$);
SELECT test_error($$SELECT cqrs_register_replica('soft', soft_delete => 'twice')$$);
SELECT test_error($$SELECT cqrs_register_replica('soft', fields => '{id,twice}')$$);
SELECT cqrs_register_replica('soft', soft_delete => 'gone');
DROP TABLE soft;
SELECT test_error($$SELECT cqrs_register_replica('refused', handler => 'book_retry')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', handler => 'nope')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', handler => 4294967295::regproc)$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', retry => 'book_handler')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', max_retries => -1)$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', retry_delay => '0')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', retry_delay => '31 days')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', retry_delay => '-1 s')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', retry_delay => '178000000 years')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', on_expired => 'drop')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', exchange => '')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', exchange => 'amq.direct')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', routing_key => '')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', routing_key => repeat('x', 256))$$);
SELECT test_error($$SELECT cqrs_register_replica(NULL, 'none')$$);
SELECT test_error($$SELECT cqrs_register_replica(NULL, 'none', handler => 'book_handler', fields => '{id}')$$);
SELECT test_error($$SELECT cqrs_register_replica(NULL, 'none', handler => 'book_handler', field_map => '{"a": "b"}')$$);
SELECT test_error($$SELECT cqrs_register_replica(NULL, 'none', handler => 'book_handler', soft_delete => 'x')$$);
SELECT test_error($$SELECT cqrs_alter_replica(NULL, '{}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', NULL)$$);
SELECT test_error($$SELECT cqrs_alter_replica('nope', '{}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '[]')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{"relation": "book"}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{"max_retries": "5"}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{"max_retries": 1.5}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{"max_retries": 2147483648}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{"retry_delay": 5}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{"retry_delay": "soon"}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{"soft_delete": ["name"]}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{"soft_delete": "name"}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('log', '{"handler": null}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('log', '{"fields": ["id"]}')$$);
SELECT test_error($$SELECT cqrs_unregister_replica(NULL)$$);
SELECT test_error($$SELECT cqrs_unregister_replica('nope')$$);
SELECT * FROM state;
BEGIN READ ONLY;
SELECT test_error($$SELECT cqrs_register_replica('refused')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{}')$$);
SELECT test_error($$SELECT cqrs_unregister_replica('author')$$);
COMMIT;

-- What may make messages fail is warned of, also later.
CREATE TABLE warned (id int PRIMARY KEY, email text UNIQUE, gone bool);
CREATE TABLE child (id int REFERENCES warned, a int REFERENCES warned ON DELETE CASCADE,
	b int REFERENCES warned ON DELETE SET NULL, c int REFERENCES warned ON DELETE RESTRICT);
SELECT cqrs_register_replica('warned');
SELECT * FROM cqrs_check() WHERE item ^@ 'replica' AND status <> 'ok';
SELECT cqrs_alter_replica('warned', '{"soft_delete": "gone"}');
SELECT * FROM cqrs_check() WHERE item ^@ 'replica';
DROP TABLE child, warned;

-- Roles: the owner of the table who may execute the function.
CREATE ROLE regress_owner;
CREATE ROLE regress_other;
GRANT CREATE ON SCHEMA public TO regress_owner, regress_other;
ALTER TABLE refused OWNER TO regress_owner;
SET ROLE regress_owner;
SELECT test_error($$SELECT cqrs_register_replica('refused')$$);
SELECT test_error($$SELECT cqrs_alter_replica('author', '{}')$$);
SELECT test_error($$SELECT cqrs_unregister_replica('author')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION cqrs_register_replica, cqrs_alter_replica TO regress_owner, regress_other;
REVOKE EXECUTE ON FUNCTION book_handler FROM PUBLIC;
SET ROLE regress_other;
SELECT test_error($$SELECT cqrs_register_replica('refused')$$);
SELECT test_error($$SELECT cqrs_register_replica(NULL, 'none', handler => 'book_handler')$$);
SET ROLE regress_owner;
SELECT test_error($$SELECT cqrs_register_replica('refused', handler => 'book_handler')$$);
SELECT test_error($$SELECT cqrs_register_replica('refused', exchange => 'library')$$);
SELECT test_error($$SELECT cqrs_register_replica('author')$$);
CREATE FUNCTION own_handler(cqrs.message) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SELECT cqrs_register_replica('refused');
SELECT cqrs_register_replica(NULL, 'own', handler => 'own_handler');
SELECT cqrs_alter_replica('refused', '{"fields": ["id"]}');
SELECT test_error($$SELECT cqrs_alter_replica('log', '{}')$$);
SELECT test_error($$SELECT cqrs_alter_replica('own', '{"handler": "book_handler"}')$$);
SELECT test_error($$SELECT cqrs_unregister_replica('log')$$);
SET ROLE regress_other;
SELECT test_error($$SELECT cqrs_alter_replica('refused', '{}')$$);
SELECT test_error($$SELECT cqrs_unregister_replica('refused')$$);
SELECT test_error($$SELECT cqrs_unregister_replica('own')$$);
SELECT cqrs_id FROM cqrs.replica ORDER BY 1;
SELECT test_error($$DELETE FROM cqrs.replica$$);
-- Ending a replica needs no EXECUTE that PUBLIC has not.
RESET ROLE;
REVOKE EXECUTE ON FUNCTION cqrs_register_replica, cqrs_alter_replica FROM regress_owner, regress_other;
SET ROLE regress_owner;
-- A rename by the owner, who cannot write to cqrs.replica.
ALTER TABLE refused RENAME COLUMN id TO number;
SELECT fields, field_map FROM cqrs.replica WHERE cqrs_id = 'refused';
SELECT cqrs_unregister_replica('refused');
SELECT cqrs_unregister_replica('own');
RESET ROLE;
-- Missing privileges are shown.
GRANT EXECUTE ON FUNCTION book_handler TO regress_owner;
SELECT cqrs_register_replica('refused', handler => 'book_handler');
REVOKE EXECUTE ON FUNCTION book_handler FROM regress_owner;
SELECT * FROM cqrs_check() WHERE item = 'replica refused';
DROP TABLE refused;
DROP FUNCTION own_handler;
REVOKE CREATE ON SCHEMA public FROM regress_owner, regress_other;
DROP ROLE regress_owner, regress_other;

-- Changes of the schema.  Columns that the replica needs.
CREATE TYPE mood AS ENUM ('fine', 'bad');
CREATE TYPE pair AS (a int, b int);
CREATE TABLE t (id int PRIMARY KEY, name varchar(10), feeling mood, secret text,
	gone bool, mapped text);
CREATE TABLE every (id int PRIMARY KEY, name varchar(10), extra text);
SELECT cqrs_register_replica('t', fields => '{id,name,feeling}',
	field_map => '{"name": "title", "mapped": "m"}', soft_delete => 'gone');
SELECT cqrs_register_replica('every');
SELECT test_error('ALTER TABLE t DROP COLUMN name');
SELECT test_error('ALTER TABLE t DROP COLUMN mapped');
SELECT test_error('ALTER TABLE t DROP COLUMN gone');
SELECT test_error('ALTER TABLE t DROP COLUMN id');
SELECT test_error('ALTER TABLE t DROP COLUMN cqrs_revision');
SELECT test_error('ALTER TABLE every DROP COLUMN cqrs_updated');
SELECT test_error('DROP TYPE mood CASCADE');
CREATE SCHEMA types;
ALTER TYPE mood SET SCHEMA types;
SELECT test_error('DROP SCHEMA types CASCADE');
ALTER TYPE types.mood SET SCHEMA public;
DROP SCHEMA types;
CREATE ROLE regress_owner;
ALTER TYPE mood OWNER TO regress_owner;
SELECT test_error('DROP OWNED BY regress_owner CASCADE');
ALTER TYPE mood OWNER TO CURRENT_USER;
DROP ROLE regress_owner;
SELECT test_error('DO $$BEGIN EXECUTE ''ALTER TABLE t DROP COLUMN name''; END$$');
-- Those that it does not need.
ALTER TABLE t DROP COLUMN secret;
ALTER TABLE every DROP COLUMN extra;
-- Types, if the replica allows them.
ALTER TABLE t ALTER COLUMN name TYPE text, ALTER COLUMN id TYPE bigint;
ALTER TYPE mood RENAME VALUE 'bad' TO 'sad';
SELECT test_error('ALTER TABLE t ALTER COLUMN cqrs_revision TYPE bigint');
SELECT test_error('ALTER TABLE t ALTER COLUMN gone TYPE text');
ALTER TABLE t ALTER COLUMN gone DROP DEFAULT,
	ALTER COLUMN gone TYPE timestamptz USING CASE WHEN gone THEN now() END;
SELECT test_error('ALTER TABLE t ALTER COLUMN gone SET NOT NULL');
CREATE TABLE typed OF pair (PRIMARY KEY (a));
SELECT test_error($$SELECT cqrs_register_replica('typed')$$);
DROP TABLE typed;
-- Key, NOT NULL, persistence, row security, inheritance, partitions.
SELECT test_error('ALTER TABLE t DROP CONSTRAINT t_pkey');
SELECT test_error('ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (name)');
CREATE UNIQUE INDEX fresh ON t (id);
ALTER TABLE t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY USING INDEX fresh;
SELECT test_error('ALTER TABLE t ALTER COLUMN cqrs_revision DROP NOT NULL');
SELECT test_error('ALTER TABLE t ALTER COLUMN cqrs_updated ADD GENERATED ALWAYS AS IDENTITY');
SELECT test_error('ALTER TABLE t SET UNLOGGED');
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
SELECT test_error('ALTER TABLE t FORCE ROW LEVEL SECURITY');
ALTER TABLE t DISABLE ROW LEVEL SECURITY;
ALTER TABLE t FORCE ROW LEVEL SECURITY;
SELECT test_error('ALTER TABLE t ENABLE ROW LEVEL SECURITY');
ALTER TABLE t NO FORCE ROW LEVEL SECURITY;
CREATE TABLE plain (id bigint NOT NULL);
SELECT test_error('ALTER TABLE t INHERIT plain');
SELECT test_error('CREATE TABLE child () INHERITS (t)');
CREATE TABLE child (LIKE t);
SELECT test_error('ALTER TABLE child INHERIT t');
DROP TABLE child, plain;
CREATE TABLE parted (LIKE t) PARTITION BY LIST (id);
SELECT test_error('ALTER TABLE parted ATTACH PARTITION t FOR VALUES IN (1)');
DROP TABLE parted;
-- A key of messages for two columns.
SELECT test_error('ALTER TABLE every ADD COLUMN a int, DROP COLUMN id');
SELECT cqrs_alter_replica('every', '{"field_map": {"name": "title"}}');
SELECT test_error('ALTER TABLE every ADD COLUMN title text');
SELECT cqrs_alter_replica('every', '{"field_map": null}');
ALTER TABLE every ADD COLUMN title text DEFAULT 'x', ADD COLUMN g int GENERATED ALWAYS AS (1) STORED;

-- Renamed columns are followed: messages stay as they were.
ALTER TABLE t RENAME COLUMN name TO label;
ALTER TABLE t RENAME COLUMN feeling TO mood;
ALTER TABLE t RENAME COLUMN id TO number;
ALTER TABLE t RENAME COLUMN mapped TO charted;
ALTER TABLE t RENAME COLUMN gone TO deleted;
SELECT fields, field_map, soft_delete FROM cqrs.replica WHERE cqrs_id = 't';
ALTER TABLE t RENAME COLUMN mood TO feeling;
ALTER TABLE t RENAME COLUMN number TO id;
SELECT fields, field_map, soft_delete FROM cqrs.replica WHERE cqrs_id = 't';
ALTER TABLE every RENAME COLUMN name TO heading;
SELECT fields, field_map FROM cqrs.replica WHERE cqrs_id = 'every';
SELECT test_error('ALTER TABLE every ADD COLUMN name text');
ALTER TABLE every RENAME COLUMN heading TO name;
SELECT fields, field_map FROM cqrs.replica WHERE cqrs_id = 'every';
SELECT test_error('ALTER TABLE t RENAME COLUMN cqrs_revision TO x');
SELECT test_error('ALTER TABLE t RENAME COLUMN cqrs_updated TO x');
BEGIN;
ALTER TABLE t RENAME COLUMN label TO name;
SAVEPOINT a;
ALTER TABLE t RENAME COLUMN name TO heading;
ROLLBACK TO a;
SELECT fields, field_map FROM cqrs.replica WHERE cqrs_id = 't';
ROLLBACK;
SELECT fields, field_map FROM cqrs.replica WHERE cqrs_id = 't';
-- The table's own name and schema do not matter.
CREATE SCHEMA elsewhere;
ALTER TABLE t RENAME TO u;
ALTER TABLE u SET SCHEMA elsewhere;
ALTER SCHEMA elsewhere RENAME TO nowhere;
SELECT relation FROM cqrs.replica WHERE cqrs_id = 't';
SELECT test_error('ALTER TABLE nowhere.u DROP COLUMN label');

-- Functions of replicas.
CREATE FUNCTION nowhere.h(cqrs.message) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SELECT cqrs_alter_replica('t', '{"handler": "nowhere.h"}');
SELECT cqrs_register_replica(NULL, 'bare', handler => 'nowhere.h');
CREATE FUNCTION nowhere.h(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT test_error('DROP FUNCTION nowhere.h(cqrs.message)');
SELECT test_error('DROP ROUTINE nowhere.h(cqrs.message)');
SELECT test_error('ALTER FUNCTION nowhere.h(cqrs.message) RENAME TO n');
SELECT test_error('ALTER FUNCTION nowhere.h(cqrs.message) SET SCHEMA public');
SELECT test_error('ALTER SCHEMA nowhere RENAME TO somewhere');
SELECT test_error('DROP FUNCTION book_retry');
ALTER FUNCTION nowhere.h(cqrs.message) STABLE;
DROP FUNCTION nowhere.h(int);
CREATE OR REPLACE FUNCTION nowhere.h(m cqrs.message) RETURNS boolean LANGUAGE sql AS 'SELECT false';
SELECT cqrs_unregister_replica('bare');
BEGIN;
SELECT cqrs_alter_replica('t', '{"handler": null}');
DROP FUNCTION nowhere.h(cqrs.message);
ROLLBACK;

-- DROP TABLE and DROP SCHEMA take the replica along.
BEGIN;
DROP TABLE nowhere.u;
SELECT cqrs_id FROM cqrs.replica ORDER BY 1;
ROLLBACK;
DROP SCHEMA nowhere CASCADE;
SELECT cqrs_id FROM cqrs.replica ORDER BY 1;
DROP TYPE pair, mood;
DROP TABLE every;

-- Partitions.
CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
CREATE UNLOGGED TABLE part PARTITION OF root FOR VALUES IN (1);
SELECT test_error($$SELECT cqrs_register_replica('root')$$);
SELECT test_error($$SELECT cqrs_register_replica('part')$$);
ALTER TABLE part SET LOGGED;
SELECT test_error($$SELECT cqrs_register_replica('part')$$);
SELECT cqrs_register_replica('root');
SELECT test_error('ALTER TABLE part SET UNLOGGED');
SELECT test_error('CREATE UNLOGGED TABLE p2 PARTITION OF root FOR VALUES IN (2)');
CREATE UNLOGGED TABLE p2 (LIKE part INCLUDING ALL);
SELECT test_error('ALTER TABLE root ATTACH PARTITION p2 FOR VALUES IN (2)');
ALTER TABLE p2 SET LOGGED;
ALTER TABLE root ATTACH PARTITION p2 FOR VALUES IN (2);
CREATE TABLE p3 PARTITION OF root FOR VALUES IN (3);
ALTER TABLE root RENAME COLUMN v TO w;
SELECT field_map FROM cqrs.replica WHERE cqrs_id = 'root';
SELECT test_error('ALTER TABLE root DROP CONSTRAINT root_pkey');
ALTER TABLE root DETACH PARTITION p2;
ALTER TABLE p2 SET UNLOGGED;
DROP TABLE root, p2;

-- While a dump is restored, a replica may lack anything for a while.
CREATE TABLE r (id int NOT NULL, v text, cqrs_revision int);
INSERT INTO cqrs.replica (cqrs_id, relation, fields, handler, retry_delay, only_direct_syncs, on_expired)
	VALUES ('r', 'r', '{id,v,late}', 'public.r_handler', '2 s', false, 'apply');
SELECT detail, remedy FROM cqrs_check() WHERE item = 'replica r';
ALTER TABLE r ADD COLUMN cqrs_updated timestamptz NOT NULL;
ALTER TABLE r ADD CONSTRAINT r_pkey PRIMARY KEY (id);
SELECT detail FROM cqrs_check() WHERE item = 'replica r';
ALTER TABLE r ALTER COLUMN cqrs_revision SET NOT NULL;
SELECT detail FROM cqrs_check() WHERE item = 'replica r';
ALTER TABLE r ADD COLUMN late int;
SELECT detail FROM cqrs_check() WHERE item = 'replica r';
CREATE FUNCTION r_handler(cqrs.message) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SELECT detail FROM cqrs_check() WHERE item = 'replica r';
SELECT test_error('ALTER TABLE r DROP COLUMN late');
SELECT cqrs_unregister_replica('r');
ALTER TABLE r DROP COLUMN late;
DROP TABLE r;
DROP FUNCTION r_handler;

-- Broken behind the extension's back.
SET allow_system_table_mods = on;
BEGIN;
UPDATE pg_attribute SET attnotnull = false WHERE attrelid = 'author'::regclass AND attname = 'cqrs_revision';
SELECT detail, remedy FROM cqrs_check() WHERE item = 'replica author';
ROLLBACK;

-- Unregister: table and columns stay, and it can follow again, or be a master.
SELECT cqrs_unregister_replica('author');
SELECT * FROM author;
SELECT cqrs_register_replica('author', 'writer');
SELECT cqrs_unregister_replica('writer');
SET client_min_messages = error;
SELECT cqrs_register('author');
INSERT INTO author VALUES (2, 'new');
SELECT id, cqrs_revision FROM author;
SELECT cqrs_unregister_replica('log');
SELECT cqrs_unregister_replica('library.book');
DROP TABLE author, book;
DROP FUNCTION book_handler, book_retry;
DROP VIEW state;
SELECT test_skip();
SELECT count(*) FROM cqrs.replica;

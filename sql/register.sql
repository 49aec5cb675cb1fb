-- cqrs_register: its options, and what it refuses.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;

CREATE TABLE author (id int PRIMARY KEY, name text, "Odd ""key""" text);
INSERT INTO author VALUES (1, 'before', NULL);
SELECT cqrs_register('author');
SELECT * FROM cqrs.master;
SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
	FROM pg_attribute JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	WHERE attrelid = 'author'::regclass ORDER BY attnum;
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger
	WHERE tgrelid = 'author'::regclass ORDER BY tgname;
SELECT id, name, cqrs_revision, cqrs_updated <= now() FROM author;
SELECT test_skip();
INSERT INTO author VALUES (2, 'after', 'x');
SELECT test_messages();

SELECT cqrs_register(4294967295::regclass);

-- Every option; columns that exist are kept, also at other places.
CREATE TABLE book (cqrs_updated timestamptz NOT NULL DEFAULT '2000-01-01 00:00:00+00',
	title text, author_id int, id int PRIMARY KEY, secret text,
	cqrs_revision int NOT NULL DEFAULT 7);
CREATE FUNCTION book_meta(book, text, jsonb, jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE AS $$SELECT '{"by": "book_meta"}'::jsonb$$;
SELECT cqrs_register('book', 'library.book', fields => '{id,title,author_id}',
	tracked_fields => '{title,author_id}', field_map => '{"author_id": "author"}',
	meta => 'book_meta', produce => true);
SELECT * FROM cqrs.master WHERE cqrs_id = 'library.book';
SELECT attname FROM pg_attribute WHERE attrelid = 'book'::regclass AND attnum > 0 ORDER BY attnum;
INSERT INTO book (id, title, author_id, secret) VALUES (1, 'a', 5, 's');
SELECT test_messages();
SELECT cqrs_register('book', 'quiet', produce => false);
SELECT cqrs_register('book', 'all', tracked_fields => '{*}');
UPDATE book SET title = 'b';
SELECT test_messages();

-- Only one of the two columns is there.
CREATE TABLE half (id int PRIMARY KEY, cqrs_revision int NOT NULL);
SELECT cqrs_register('half');
SELECT attname FROM pg_attribute WHERE attrelid = 'half'::regclass AND attnum > 0 ORDER BY attnum;

-- Names that need quoting; and ids of other alphabets.
CREATE SCHEMA "Odd schema";
CREATE TABLE "Odd schema"."Table" ("Id" int PRIMARY KEY);
SELECT cqrs_register('"Odd schema"."Table"');
SELECT cqrs_register('"Odd schema"."Table"', 'été"');
INSERT INTO "Odd schema"."Table" VALUES (1);
SELECT test_messages();
DROP SCHEMA "Odd schema" CASCADE;
SELECT cqrs_id FROM cqrs.master ORDER BY 1;

-- What is refused, and changes nothing.
CREATE TABLE refused (id int PRIMARY KEY, a int, b text);
CREATE VIEW state AS
	SELECT (SELECT count(*) FROM cqrs.master) AS masters,
		(SELECT count(*) FROM pg_trigger WHERE tgname ~ '_cqrs_') AS triggers,
		(SELECT count(*) FROM pg_attribute WHERE attname LIKE 'cqrs%') AS columns;
CREATE TEMP TABLE state_before AS SELECT * FROM state;
SELECT test_error('SELECT cqrs_register(NULL)');
SELECT test_error('SELECT cqrs_register(''refused'', ''author'')');
SELECT test_error('SELECT cqrs_register(''refused'', '''')');
SELECT test_error('SELECT cqrs_register(''refused'', ''a b'')');
SELECT test_error('SELECT cqrs_register(''refused'', ''a*'')');
SELECT test_error('SELECT cqrs_register(''refused'', ''a.#'')');
SELECT test_error('SELECT cqrs_register(''refused'', E''a\n'')');
SELECT test_error('SELECT cqrs_register(''refused'', repeat(''x'', 121))');
SELECT test_error('SELECT cqrs_register(''refused'', fields => ''{}'')');
SELECT test_error('SELECT cqrs_register(''refused'', fields => ''{id,nope}'')');
SELECT test_error('SELECT cqrs_register(''refused'', fields => ''{id,ctid}'')');
SELECT test_error('SELECT cqrs_register(''refused'', fields => ''{id,a,a}'')');
SELECT test_error('SELECT cqrs_register(''refused'', fields => ''{id,NULL}'')');
SELECT test_error('SELECT cqrs_register(''refused'', fields => ''{a}'')');
SELECT test_error('SELECT cqrs_register(''refused'', tracked_fields => ''{nope}'')');
SELECT test_error('SELECT cqrs_register(''refused'', tracked_fields => ''{*,a}'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''[]'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''"a"'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''null'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''{"nope": "x"}'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''{"a": 1}'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''{"a": {"b": "c"}}'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''{"a": ""}'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''{"a": "b"}'')');
SELECT test_error('SELECT cqrs_register(''refused'', field_map => ''{"a": "x", "b": "x"}'')');
CREATE TABLE no_key (id int);
SELECT test_error('SELECT cqrs_register(''no_key'')');
CREATE TABLE bad_revision (id int PRIMARY KEY, cqrs_revision bigint NOT NULL);
SELECT test_error('SELECT cqrs_register(''bad_revision'')');
CREATE TABLE null_revision (id int PRIMARY KEY, cqrs_revision int);
SELECT test_error('SELECT cqrs_register(''null_revision'')');
CREATE TABLE bad_updated (id int PRIMARY KEY, cqrs_updated timestamp NOT NULL);
SELECT test_error('SELECT cqrs_register(''bad_updated'')');
DROP TABLE bad_revision, null_revision, bad_updated;
SELECT test_error('SELECT cqrs_register(''pg_class'')');
SELECT test_error('SELECT cqrs_register(''cqrs.master'')');
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
SELECT test_error('SELECT cqrs_register(''temporary'')');
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
SELECT test_error('SELECT cqrs_register(''unlogged'')');
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE FOREIGN TABLE elsewhere (id int) SERVER dummy;
SELECT test_error('SELECT cqrs_register(''elsewhere'')');
CREATE VIEW v AS SELECT * FROM refused;
SELECT test_error('SELECT cqrs_register(''v'')');
CREATE MATERIALIZED VIEW mv AS SELECT * FROM refused;
SELECT test_error('SELECT cqrs_register(''mv'')');
SELECT left(test_error('SELECT cqrs_register(''refused_pkey'')'), 5) LIMIT 1;
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parted DEFAULT;
SELECT test_error('SELECT cqrs_register(''part'')');
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
SELECT test_error('SELECT cqrs_register(''parent'')');
SELECT test_error('SELECT cqrs_register(''child'')');
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE other_am (id int PRIMARY KEY) USING heap2;
SELECT test_error('SELECT cqrs_register(''other_am'')');
CREATE FUNCTION m1(refused, text, jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION m2(refused, text, jsonb) RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT NULL::jsonb';
CREATE FUNCTION m3(refused, text, jsonb, jsonb) RETURNS json LANGUAGE sql STABLE AS 'SELECT NULL::json';
CREATE FUNCTION m4(refused, text, jsonb, jsonb) RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT NULL::jsonb';
SELECT test_error('SELECT cqrs_register(''refused'', meta => ''nope'')');
SELECT test_error('SELECT cqrs_register(''refused'', meta => ''m1'')');
SELECT test_error('SELECT cqrs_register(''refused'', meta => ''m2'')');
SELECT test_error('SELECT cqrs_register(''refused'', meta => ''m3'')');
CREATE FUNCTION m5(refused) RETURNS SETOF jsonb LANGUAGE sql STABLE AS 'SELECT NULL::jsonb';
CREATE PROCEDURE m6(refused) LANGUAGE sql AS '';
SELECT test_error('SELECT cqrs_register(''refused'', serializer => ''m5'')');
SELECT test_error('SELECT cqrs_register(''refused'', serializer => ''m6'')');
CREATE ROLE regress_owner;
CREATE ROLE regress_other;
SET ROLE regress_other;
SELECT test_error('SELECT cqrs_register(''refused'')');
RESET ROLE;
GRANT CREATE ON SCHEMA public TO regress_owner;
ALTER TABLE refused OWNER TO regress_owner;
REVOKE EXECUTE ON FUNCTION m4(refused, text, jsonb, jsonb) FROM PUBLIC;
SELECT test_error('SELECT cqrs_register(''refused'', meta => ''m4'')');
SELECT b.masters = a.masters, b.triggers = a.triggers, b.columns = a.columns
	FROM state_before b, state a;

-- Columns that an application has made get the defaults that they lack.
CREATE TABLE django (id int PRIMARY KEY, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register('django');
INSERT INTO django VALUES (1);
SELECT id, cqrs_revision, cqrs_updated <= now() FROM django;
DROP TABLE django;

-- An owner without other rights may.
SET ROLE regress_owner;
SELECT cqrs_register('refused');
SELECT cqrs_unregister('refused');
RESET ROLE;
DROP TABLE no_key, unlogged, parted, parent, child, other_am, half, author, book CASCADE;
DROP FOREIGN DATA WRAPPER dummy CASCADE;
DROP ACCESS METHOD heap2;
DROP VIEW state;
DROP TABLE refused CASCADE;
REVOKE CREATE ON SCHEMA public FROM regress_owner;
DROP ROLE regress_owner, regress_other;
SELECT * FROM cqrs.master;

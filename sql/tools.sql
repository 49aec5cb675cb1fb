-- cqrs_relation, cqrs_to_json, cqrs_is_initial_save, cqrs_wait_published.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
-- Nothing to wait for, also while nothing publishes.
SELECT cqrs_wait_published();
SELECT cqrs_wait_published('0');

CREATE SCHEMA lib;
CREATE TABLE lib.author (id int PRIMARY KEY, name text, dropped int, born date);
ALTER TABLE lib.author DROP COLUMN dropped;
CREATE TABLE other (id int PRIMARY KEY);
SELECT cqrs_register('lib.author', 'author', field_map => '{"name": "full_name"}');
SELECT cqrs_register('lib.author', 'narrow', fields => '{id}');
SELECT cqrs_register('other');

SELECT cqrs_relation('narrow');
SELECT cqrs_relation(NULL);
SELECT test_error('SELECT cqrs_relation(''nope'')');

-- As the message, whatever the session's settings are.
SET datestyle = 'German';
SET timezone = 'Asia/Tokyo';
INSERT INTO lib.author VALUES (1, 'Ada "A"', DATE '1815-12-10');
SELECT cqrs_to_json(a, 'author')::text = o.body::json ->> 'instance_data'
	FROM lib.author a, cqrs.outbox o WHERE o.cqrs_id = 'author'
	ORDER BY o.id DESC LIMIT 1;
SELECT test_undated(cqrs_to_json(a, 'author')::text) FROM lib.author a;
SELECT test_undated(cqrs_to_json(a, 'narrow')::text) FROM lib.author a;
SELECT cqrs_to_json(NULL::lib.author, 'author');
RESET datestyle;
RESET timezone;
SELECT test_error('SELECT cqrs_to_json(ROW(1, 2), ''author'')');
SELECT test_error('SELECT cqrs_to_json(ROW(1, 0, now())::other, ''author'')');
SELECT test_error('SELECT cqrs_to_json(a, ''nope'') FROM lib.author a');

-- Saved no more than once by this transaction.
SELECT cqrs_is_initial_save(a) FROM lib.author a;
BEGIN;
SELECT cqrs_is_initial_save(ROW(2, 'new', NULL, 0, now())::lib.author);
UPDATE lib.author SET name = 'once' RETURNING cqrs_is_initial_save(author);
SELECT cqrs_is_initial_save(a) FROM lib.author a;
UPDATE lib.author SET name = 'twice' RETURNING cqrs_is_initial_save(author);
SELECT cqrs_is_initial_save(a) FROM lib.author a;
INSERT INTO lib.author VALUES (2, 'new') RETURNING cqrs_is_initial_save(author);
SAVEPOINT s;
UPDATE lib.author SET name = 'changed' WHERE id = 2 RETURNING cqrs_is_initial_save(author);
ROLLBACK TO s;
SELECT id, cqrs_is_initial_save(a) FROM lib.author a ORDER BY id;
UPDATE lib.author SET id = 3 WHERE id = 2 RETURNING cqrs_is_initial_save(author);
COMMIT;
SELECT id, cqrs_is_initial_save(a) FROM lib.author a ORDER BY id;
-- In triggers: BEFORE, the change that is under way does not count yet.
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING '% %', TG_WHEN, cqrs_is_initial_save(NEW);
	RETURN NEW;
END $$;
CREATE TRIGGER before_row BEFORE UPDATE ON lib.author FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER after_row AFTER UPDATE ON lib.author FOR EACH ROW EXECUTE FUNCTION tell();
SET client_min_messages = warning;
\set VERBOSITY terse
BEGIN;
UPDATE lib.author SET name = 'a' WHERE id = 1;
UPDATE lib.author SET name = 'b' WHERE id = 1;
UPDATE lib.author SET name = 'c' WHERE id = 1;
COMMIT;
SET client_min_messages = error;
SELECT test_error('SELECT cqrs_is_initial_save(ROW(1))');
SELECT cqrs_is_initial_save(NULL::lib.author);

-- There is no publisher that could confirm: only the timeout ends the wait.
SELECT cqrs_wait_published('10 ms');
SELECT cqrs_wait_published('-1 day');
BEGIN;
SELECT cqrs_wait_published('0');
INSERT INTO other VALUES (1);
SELECT test_error('SELECT cqrs_wait_published(''0'')');
ROLLBACK;
BEGIN;
TRUNCATE lib.author;
SELECT test_error('SELECT cqrs_wait_published()');
ROLLBACK;
SET statement_timeout = '10ms';
SELECT cqrs_wait_published();
RESET statement_timeout;

-- Nobody needs a right for these.
CREATE ROLE regress_tools;
SET ROLE regress_tools;
SELECT cqrs_relation('author');
SELECT cqrs_to_json(ROW(7, 0, '2026-01-01')::other, 'other');
SELECT cqrs_is_initial_save(ROW(1, 0, now())::other);
SELECT cqrs_wait_published('0');
RESET ROLE;
DROP ROLE regress_tools;
DROP TABLE lib.author, other;
DROP SCHEMA lib;
DROP FUNCTION tell();
SELECT test_skip();

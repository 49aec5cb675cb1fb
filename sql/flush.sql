-- cqrs_flush: messages of what a transaction has changed so far.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
SELECT test_skip();
CREATE TABLE f (id int PRIMARY KEY, v text);
SELECT cqrs_register('f', tracked_fields => '{v}');
SELECT cqrs_flush();
BEGIN;
INSERT INTO f VALUES (1, 'a'), (2, 'a'), (3, 'a');
SELECT cqrs_flush();
SELECT cqrs_flush();
-- What was born before is changed now; the revision is raised once again.
UPDATE f SET v = 'b' WHERE id = 1;
UPDATE f SET v = 'c' WHERE id = 1;
DELETE FROM f WHERE id = 2;
INSERT INTO f VALUES (4, 'n');
UPDATE f SET v = 'n2' WHERE id = 4;
COMMIT;
SELECT test_messages();

-- A flush that a savepoint takes back has not been.
BEGIN;
UPDATE f SET v = 'd' WHERE id = 1;
SAVEPOINT s;
UPDATE f SET v = 'e' WHERE id = 1;
UPDATE f SET v = 'e' WHERE id = 3;
SELECT cqrs_flush();
UPDATE f SET v = 'f' WHERE id = 1;
ROLLBACK TO s;
UPDATE f SET v = 'g' WHERE id = 1;
COMMIT;
SELECT test_messages();
SELECT id, v, cqrs_revision FROM f ORDER BY 1;

-- Nothing is left to be sent of a savepoint that was taken back.
BEGIN;
SAVEPOINT s;
UPDATE f SET v = 'd' WHERE id = 1;
SAVEPOINT t;
SELECT cqrs_flush();
RELEASE t;
SELECT test_error('SELECT cqrs_wait_published(''0'')');
ROLLBACK TO s;
SELECT test_error('SELECT cqrs_wait_published(''0'')');
COMMIT;

-- Twice in a transaction, in a savepoint that stays, with keys that move.
BEGIN;
UPDATE f SET v = 'h' WHERE id = 1;
SAVEPOINT s;
SELECT cqrs_flush();
RELEASE s;
UPDATE f SET id = 10 WHERE id = 1;
SELECT cqrs_flush();
UPDATE f SET v = 'i' WHERE id = 10;
INSERT INTO f VALUES (1, 'again');
COMMIT;
SELECT test_messages();

-- A table that becomes a master in the transaction; changes before do not
-- count, and the revision is raised once.
BEGIN;
CREATE TABLE late (id int PRIMARY KEY, v text);
INSERT INTO late VALUES (1, 'a'), (2, 'a');
SELECT cqrs_register('late');
UPDATE late SET v = 'b' WHERE id = 1;
UPDATE late SET v = 'c' WHERE id = 1;
COMMIT;
SELECT test_messages();
-- After a flush a definition can be changed.
BEGIN;
UPDATE f SET v = 'j' WHERE id = 1;
SELECT test_error($q$SELECT cqrs_alter('f', '{"fields": ["id"]}')$q$);
SELECT test_error($q$SELECT cqrs_register('f', 'f2')$q$);
SELECT test_error($q$SELECT cqrs_unregister('f')$q$);
SELECT cqrs_flush();
SELECT cqrs_alter('f', '{"fields": ["id"]}');
UPDATE f SET v = 'k' WHERE id = 1;
COMMIT;
SELECT test_messages();
-- With skip_unchanged: what counts after the flush raises the revision again.
CREATE TABLE skips (id int PRIMARY KEY, a text, b text);
SELECT cqrs_register('skips', fields => '{id,a}', skip_unchanged => true);
INSERT INTO skips VALUES (1, 'a', 'b');
BEGIN;
UPDATE skips SET a = 'x';
SELECT cqrs_flush();
UPDATE skips SET b = 'y';
UPDATE skips SET a = 'z';
UPDATE skips SET a = 'last';
COMMIT;
SELECT test_messages();
DROP TABLE skips;
-- Not while two rows may have one key.
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
SELECT cqrs_register('deferred');
INSERT INTO deferred VALUES (1, 'old');
BEGIN;
INSERT INTO deferred VALUES (1, 'new');
SELECT test_error('SELECT cqrs_flush()');
DELETE FROM deferred WHERE v = 'old';
COMMIT;
SELECT test_messages();
DROP TABLE deferred;
-- It makes messages of syncs, too, and nothing in a session that is silenced.
BEGIN;
SELECT cqrs_sync('f', 'id = 1');
SELECT cqrs_flush();
SET LOCAL cqrs.produce = off;
UPDATE f SET v = 'l' WHERE id = 1;
SELECT cqrs_flush();
COMMIT;
SELECT test_messages();
-- After a flush the table can be rewritten.
BEGIN;
UPDATE f SET v = 'm' WHERE id = 1;
SELECT cqrs_flush();
ALTER TABLE f ADD COLUMN r double precision DEFAULT random();
UPDATE f SET v = 'n' WHERE id = 1;
UPDATE f SET v = 'o' WHERE id = 1;
DELETE FROM f WHERE id = 3;
COMMIT;
SELECT test_messages();
DROP TABLE f, late;
-- By a trigger between ours and the UPDATE: the row has been noted, and is not
-- changed yet.
CREATE TABLE g (id int PRIMARY KEY, v text);
SELECT cqrs_register('g');
INSERT INTO g VALUES (1, 'a'), (2, 'a'), (3, 'a');
SELECT test_skip();
CREATE FUNCTION flushes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cqrs_flush();
	RETURN NEW;
END
$$;
CREATE TRIGGER zzz BEFORE UPDATE ON g FOR EACH ROW EXECUTE FUNCTION flushes();
UPDATE g SET v = 'changed' WHERE id < 3;
SELECT test_messages();
BEGIN;
UPDATE g SET v = 'changed twice' WHERE id < 3;
UPDATE g SET v = 'changed thrice' WHERE id = 1;
SAVEPOINT a;
UPDATE g SET v = 'not' WHERE id = 3;
ROLLBACK TO a;
DELETE FROM g WHERE id = 2;
COMMIT;
SELECT test_messages();
-- Where the update was cancelled the row is noted twice.
CREATE FUNCTION cancels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RETURN CASE WHEN NEW.v <> 'no' THEN NEW END;
END
$$;
CREATE TRIGGER zzzz BEFORE UPDATE ON g FOR EACH ROW EXECUTE FUNCTION cancels();
BEGIN;
UPDATE g SET v = 'no';
UPDATE g SET v = 'yes';
COMMIT;
SELECT test_messages();
DROP TABLE g;
DROP FUNCTION flushes, cancels;
-- The row was changed before, and its next update is on its way: by a trigger
-- after ours, a CHECK or a generated column (I2).
CREATE FUNCTION flush_if(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF v LIKE 'flush%' THEN
		PERFORM cqrs_flush();
	END IF;
	RETURN v;
END
$$;
CREATE FUNCTION flushes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM flush_if(NEW.v);
	RETURN CASE WHEN NEW.v <> 'flush, cancel' THEN NEW END;
END
$$;
CREATE TABLE g (id int PRIMARY KEY, v text);
CREATE TRIGGER zzz BEFORE UPDATE ON g FOR EACH ROW EXECUTE FUNCTION flushes();
CREATE TABLE h (id int PRIMARY KEY, v text CHECK (flush_if(v) IS NOT NULL));
CREATE TABLE k (id int PRIMARY KEY, v text, w text GENERATED ALWAYS AS (flush_if(v)) STORED);
SELECT cqrs_register('g'), cqrs_register('h'), cqrs_register('k', fields => '{id,w}', skip_unchanged => true);
CREATE PROCEDURE changes(name text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO %I VALUES (1, ''a''), (2, ''a''), (3, ''a''), (4, ''a'')', name);
	COMMIT;
	PERFORM test_skip();
	COMMIT;
	EXECUTE format('UPDATE %I SET v = ''b'' WHERE id < 4', name);
	EXECUTE format('DELETE FROM %I WHERE id = 2', name);
	EXECUTE format('UPDATE %I SET v = ''flush'' WHERE id = 1', name);
	EXECUTE format('UPDATE %I SET v = ''flush'' WHERE id = 4', name);
	EXECUTE format('UPDATE %I SET v = ''last'' WHERE id IN (3, 4)', name);
	EXECUTE format('UPDATE %I SET v = ''flush again'' WHERE id = 4', name);
	COMMIT;
	EXECUTE format('INSERT INTO %I VALUES (5, ''born'')', name);
	EXECUTE format('UPDATE %I SET v = ''flush'' WHERE id = 5', name);
	EXECUTE format('UPDATE %I SET v = ''last'' WHERE id = 5', name);
	EXECUTE format('INSERT INTO %I VALUES (6, ''born'')', name);
	EXECUTE format('UPDATE %I SET v = ''flush'' WHERE id = 6', name);
	EXECUTE format('DELETE FROM %I WHERE id = 6', name);
	COMMIT;
END
$$;
CALL changes('g');
SELECT test_messages();
CALL changes('h');
SELECT test_messages();
CALL changes('k');
SELECT test_messages();
-- The update is cancelled, or taken back; the key changes; the row is to be sent
-- again.
BEGIN;
UPDATE g SET v = 'c';
UPDATE g SET v = 'flush, cancel';
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE g SET v = 'd' WHERE id < 4;
SAVEPOINT s;
UPDATE g SET v = 'flush' WHERE id = 1;
ROLLBACK TO s;
UPDATE g SET id = 30, v = 'flush' WHERE id = 3;
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE g SET v = 'e' WHERE id = 1;
SELECT cqrs_sync('g', 'id IN (1, 4)');
UPDATE g SET v = 'flush' WHERE id = 1;
COMMIT;
SELECT test_messages();
DROP TABLE g, h, k;
DROP PROCEDURE changes;
DROP FUNCTION flushes, flush_if;

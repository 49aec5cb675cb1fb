-- The order of a transaction's messages where triggers and foreign keys change
-- other rows on account of one: a consumer with the same foreign keys can apply
-- them one after the other.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
SELECT test_skip();

-- A trigger whose name sorts before most creates a row that refers to the new
-- one; another one deletes what nothing refers to any more.  What PostgreSQL
-- deletes for a foreign key comes last.
CREATE TABLE usr (id int PRIMARY KEY);
CREATE TABLE profile (id int PRIMARY KEY, usr int NOT NULL REFERENCES usr, v text);
CREATE TABLE photo (id int PRIMARY KEY, profile int REFERENCES profile ON DELETE CASCADE);
SELECT cqrs_register('usr'), cqrs_register('profile'), cqrs_register('photo');
CREATE FUNCTION give_profile() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO profile VALUES (new.id * 10, new.id, 'made');
	RETURN NULL;
END
$$;
CREATE TRIGGER "A insert" AFTER INSERT ON usr FOR EACH ROW EXECUTE FUNCTION give_profile();
CREATE FUNCTION take_usr() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM usr WHERE id = old.usr;
	RETURN NULL;
END
$$;
CREATE TRIGGER a_delete AFTER DELETE ON profile FOR EACH ROW EXECUTE FUNCTION take_usr();
INSERT INTO usr VALUES (1), (2);
SELECT test_messages();
INSERT INTO photo VALUES (1, 10), (2, 10), (3, 20);
SELECT count(*) FROM test_messages();
DELETE FROM profile WHERE id = 10;
SELECT test_messages();

-- A trigger of a DELETE gives the key to a new row.
CREATE FUNCTION revive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO profile VALUES (old.id, old.usr, 'revived');
	RETURN NULL;
END
$$;
DROP TRIGGER a_delete ON profile;
CREATE TRIGGER "0 delete" AFTER DELETE ON profile FOR EACH ROW EXECUTE FUNCTION revive();
ALTER TABLE photo DROP CONSTRAINT photo_profile_fkey;
DELETE FROM profile WHERE id = 20;
SELECT test_messages();

-- In a statement with data-modifying WITH, what it updates comes first, then
-- what it inserts and deletes.
WITH p AS (INSERT INTO usr VALUES (3) RETURNING id)
UPDATE profile SET usr = p.id FROM p WHERE profile.id = 20;
SELECT test_messages();

-- What a statement itself deletes comes first, then, level by level, what
-- PostgreSQL deletes on account of that, also for keys that are deferred.  What
-- it updates comes right after the row that was deleted, or after all that the
-- statement updates.
CREATE TABLE root (id int PRIMARY KEY);
CREATE TABLE branch (id int PRIMARY KEY, root int REFERENCES root ON DELETE CASCADE);
CREATE TABLE leaf (id int PRIMARY KEY, branch int REFERENCES branch ON DELETE CASCADE);
CREATE TABLE fan (id int PRIMARY KEY, root int REFERENCES root ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE late (id int PRIMARY KEY,
	root int REFERENCES root ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
SELECT cqrs_register(r) FROM unnest('{late,fan,leaf,branch,root}'::regclass[]) r;
INSERT INTO root VALUES (1), (2);
INSERT INTO branch VALUES (10, 1), (20, 2);
INSERT INTO leaf VALUES (100, 10), (200, 20);
INSERT INTO fan VALUES (1000, 1), (2000, 2);
INSERT INTO late VALUES (10000, 1);
SELECT test_skip();
BEGIN;
DELETE FROM root;
INSERT INTO root VALUES (3);
COMMIT;
SELECT test_messages();
INSERT INTO root VALUES (4);
INSERT INTO fan VALUES (3000, 3), (4000, 4);
SELECT test_skip();
UPDATE root SET id = id * 10;
SELECT test_messages();
DROP TABLE root, branch, leaf, fan, late;

DROP TABLE usr, profile, photo CASCADE;
DROP FUNCTION give_profile, take_usr, revive;

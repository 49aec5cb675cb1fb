-- Users' triggers, rules, views and row-level security on masters.
\pset format unaligned
\pset tuples_only on
\set VERBOSITY terse
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v text, log text DEFAULT '');
SELECT cqrs_register('t', tracked_fields => '{v}');
SELECT test_skip();

-- BEFORE triggers change, redirect or cancel a row of each operation, whether
-- they fire before ours or after.
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		RETURN CASE WHEN OLD.v <> 'keep' THEN OLD END;
	ELSIF NEW.v = 'cancel' THEN
		RETURN NULL;
	ELSIF NEW.v = 'undo' AND TG_NAME = 'aa' THEN
		RETURN OLD;
	ELSIF NEW.v = 'move' THEN
		NEW.id := NEW.id + 100;
	ELSIF NEW.v = 'revision' THEN
		NEW.cqrs_revision := 99;
	END IF;
	NEW.log := TG_NAME;
	RETURN NEW;
END
$$;
CREATE TRIGGER aa BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION meddle();
CREATE PROCEDURE try() LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO t VALUES (1, 'new'), (2, 'cancel'), (3, 'move'), (4, 'keep'), (5, 'revision');
	COMMIT;
	UPDATE t SET v = 'cancel' WHERE id = 1;
	COMMIT;
	UPDATE t SET v = 'undo' WHERE id = 1;
	COMMIT;
	UPDATE t SET v = 'cancel' WHERE id = 1;
	UPDATE t SET v = 'update' WHERE id = 1;
	UPDATE t SET v = 'undo' WHERE id = 1;
	COMMIT;
	UPDATE t SET v = 'move' WHERE id = 1;
	COMMIT;
	UPDATE t SET v = 'move' WHERE id = 101;
	INSERT INTO t VALUES (101, 'new owner');
	COMMIT;
	UPDATE t SET v = 'revision' WHERE id = 101;
	COMMIT;
	DELETE FROM t;
	COMMIT;
	UPDATE t SET v = 'go' WHERE id = 4;
	DELETE FROM t;
	COMMIT;
END
$$;
CALL try();
SELECT test_messages();
ALTER TRIGGER aa ON t RENAME TO zzz;
CALL try();
SELECT test_messages();
DROP TRIGGER zzz ON t;
DROP PROCEDURE try;
DROP FUNCTION meddle;

-- AFTER triggers that change the row again, other rows, other masters.
CREATE TABLE audit (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
SELECT cqrs_register('audit');
CREATE FUNCTION after_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audit (what) VALUES (concat_ws(' ', TG_OP, OLD.v, NEW.v));
	IF TG_OP <> 'DELETE' THEN
		UPDATE t SET log = log || '+' WHERE id = NEW.id AND length(log) < 2;
		DELETE FROM t WHERE id = NEW.id AND v = 'suicide';
	END IF;
	RETURN NULL;
END
$$;
CREATE FUNCTION after_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audit (what) SELECT TG_OP || ' of ' || count(*) FROM changed;
	UPDATE t SET log = 'statement' WHERE log <> 'statement';
	RETURN NULL;
END
$$;
CREATE TRIGGER after_row AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION after_row();
INSERT INTO t VALUES (1, 'one'), (2, 'suicide');
SELECT test_messages() ORDER BY 1;
UPDATE t SET v = 'suicide', log = '';
SELECT test_messages() ORDER BY 1;
DROP TRIGGER after_row ON t;
CREATE TRIGGER after_statement AFTER INSERT ON t REFERENCING NEW TABLE AS changed
	FOR EACH STATEMENT EXECUTE FUNCTION after_statement();
INSERT INTO t VALUES (1, 'one'), (2, 'two');
SELECT test_messages() ORDER BY 1;
DROP TRIGGER after_statement ON t;
DROP FUNCTION after_row, after_statement;

-- A row that an AFTER trigger inserts gets the key of one that is deleted by the
-- same command: the DELETE comes first.
CREATE TABLE p (id int PRIMARY KEY, v text);
SELECT cqrs_register('p');
CREATE FUNCTION rise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF OLD.v = 'phoenix' THEN
		INSERT INTO p VALUES (OLD.id, 'risen'), (OLD.id + 1, 'risen');
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER rise AFTER DELETE ON p FOR EACH ROW EXECUTE FUNCTION rise();
INSERT INTO p VALUES (1, 'phoenix'), (2, 'x');
SELECT test_skip();
DELETE FROM p;
SELECT test_messages();
-- An INSERT by a command before does not change the order.
BEGIN;
INSERT INTO p VALUES (3, 'x');
DELETE FROM p WHERE id = 1;
INSERT INTO p VALUES (1, 'again');
COMMIT;
SELECT test_messages();
DROP TABLE p;
DROP FUNCTION rise;

-- Constraint triggers that write at commit, and have others write after them.
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.v ~ '^\d+$' AND NEW.v::int > 0 THEN
		UPDATE t SET v = NEW.v::int - 1 WHERE id = NEW.id;
		INSERT INTO audit (what) VALUES ('step ' || NEW.v);
	ELSIF NEW.v = '0' THEN
		DELETE FROM t WHERE id = NEW.id;
	END IF;
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE ON t
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
TRUNCATE audit RESTART IDENTITY;
SELECT test_skip();
BEGIN;
UPDATE t SET v = '2' WHERE id = 1;
INSERT INTO t VALUES (3, '1');
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE t SET v = '1' WHERE id = 2;
SAVEPOINT a;
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK TO a;
PREPARE TRANSACTION 'triggers';
COMMIT PREPARED 'triggers';
SELECT test_messages();
DROP TRIGGER at_commit ON t;
DROP FUNCTION at_commit;

-- Deferred constraints: refused at commit, nothing is sent.
CREATE TABLE u (id int PRIMARY KEY, v int UNIQUE DEFERRABLE INITIALLY DEFERRED);
SELECT cqrs_register('u');
INSERT INTO u VALUES (1, 1), (2, 2);
SELECT test_skip();
BEGIN;
UPDATE u SET v = 1 WHERE id = 2;
COMMIT;
BEGIN;
UPDATE u SET v = 1 WHERE id = 2;
UPDATE u SET v = 3 WHERE id = 1;
COMMIT;
SELECT test_messages();
DROP TABLE u;

-- A trigger that exists for a transaction.
TRUNCATE t, audit RESTART IDENTITY;
INSERT INTO t VALUES (1, 'one');
SELECT test_skip();
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.v := upper(NEW.v);
	RETURN NEW;
END
$$;
BEGIN;
UPDATE t SET v = 'before' WHERE id = 1;
CREATE TRIGGER zzz_shout BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION shout();
UPDATE t SET v = 'loud' WHERE id = 1;
DROP TRIGGER zzz_shout ON t;
UPDATE t SET v = v || ' and quiet' WHERE id = 1;
COMMIT;
SELECT test_messages();
DROP FUNCTION shout;

-- Rules and views.
CREATE RULE log_update AS ON UPDATE TO t DO ALSO INSERT INTO audit (what) VALUES ('rule ' || NEW.v);
UPDATE t SET v = 'ruled';
SELECT test_messages() ORDER BY 1;
DROP RULE log_update ON t;
CREATE RULE no_delete AS ON DELETE TO t DO INSTEAD UPDATE t SET v = 'deleted' WHERE id = OLD.id;
DELETE FROM t;
SELECT test_messages();
DROP RULE no_delete ON t;
CREATE VIEW w AS SELECT id AS key, v FROM t WHERE v <> 'hidden' WITH CHECK OPTION;
INSERT INTO w VALUES (7, 'by view');
UPDATE w SET key = 8 WHERE key = 7;
UPDATE w SET v = 'hidden' WHERE key = 8;
INSERT INTO w VALUES (8, 'x') ON CONFLICT (key) DO UPDATE SET v = 'upserted by view';
DELETE FROM w WHERE key = 8;
SELECT test_messages();
CREATE VIEW joined AS SELECT t.id, t.v, a.what FROM t JOIN audit a ON a.n = t.id;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO t VALUES (NEW.id, NEW.v);
	INSERT INTO audit (n, what) OVERRIDING SYSTEM VALUE VALUES (NEW.id, NEW.what);
	RETURN NEW;
END
$$;
CREATE TRIGGER instead INSTEAD OF INSERT ON joined FOR EACH ROW EXECUTE FUNCTION instead();
INSERT INTO joined VALUES (50, 'view', 'trigger');
COPY joined FROM stdin WITH (DELIMITER ',');
51,copy,trigger
\.
SELECT test_messages();
DROP VIEW w, joined;
DROP FUNCTION instead;
DROP TABLE audit;

-- Row-level security: who may not see a row changes and sends what he may;
-- what is sent is whole.
CREATE ROLE regress_writer;
CREATE TABLE s (id int PRIMARY KEY, owner name DEFAULT current_user, secret text);
SELECT cqrs_register('s', 'secured');
INSERT INTO s VALUES (1, 'regress_writer', 'a'), (2, 'somebody', 'b');
ALTER TABLE s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON s FOR UPDATE USING (owner = current_user) WITH CHECK (true);
CREATE POLICY born ON s FOR INSERT WITH CHECK (id > 0);
CREATE POLICY gone ON s FOR DELETE USING (true);
CREATE POLICY seen ON s FOR SELECT USING (id = 1);
GRANT INSERT, UPDATE, DELETE, TRUNCATE, SELECT (id, owner) ON s TO regress_writer;
SELECT test_skip();
SET ROLE regress_writer;
UPDATE s SET secret = 'all that I may';
INSERT INTO s (id, secret) VALUES (3, 'unseen by its writer');
INSERT INTO s VALUES (-1);
DELETE FROM s;
RESET ROLE;
SELECT test_messages();
SET ROLE regress_writer;
INSERT INTO s (id, secret) VALUES (4, 'unseen');
TRUNCATE s;
RESET ROLE;
SELECT test_messages();
DROP TABLE s, t;
DROP ROLE regress_writer;

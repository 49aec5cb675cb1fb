-- Functions run with the rights of a table's owner.  Commands by which they run with
-- those of another role than their own owner's give a warning.
\pset format unaligned
\pset tuples_only on
SELECT test_skip();
CREATE ROLE regress_mallory;
CREATE ROLE regress_owner;
CREATE ROLE regress_friend IN ROLE regress_owner;
CREATE ROLE regress_stranger;
CREATE ROLE regress_super SUPERUSER;
CREATE SCHEMA s AUTHORIZATION regress_mallory;
GRANT ALL ON SCHEMA s TO PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs_register_replica TO regress_mallory;
SET SESSION AUTHORIZATION regress_mallory;
CREATE TABLE s.t (id int PRIMARY KEY, v text);
CREATE TABLE s.other (id int PRIMARY KEY);
CREATE FUNCTION s.row_json(r s.t) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT jsonb_build_object('who', current_user)$$;
CREATE FUNCTION s.meta(s.t, text, jsonb, jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT '{}'::jsonb$$;
CREATE FUNCTION s.differs(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$SELECT $1 <> $2$$;
CREATE OPERATOR s.<<>> (FUNCTION = s.differs, LEFTARG = int, RIGHTARG = int);
DO $$BEGIN SET LOCAL client_min_messages = error; PERFORM cqrs_register('s.other'); END$$;
CREATE FUNCTION s.data(r s.t) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT '{}'::jsonb$$;
SELECT cqrs_register('s.t', serializer => 's.row_json', meta => 's.meta',
	delete_data => 's.data', sync_when => 'id OPERATOR(s.<<>>) 0 AND v IS NULL');
-- Another one of that name, and of another signature, does not count.
CREATE FUNCTION s.data(r s.other) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT '{}'::jsonb$$;
RESET SESSION AUTHORIZATION;

-- The owner of the table.
BEGIN;
ALTER TABLE s.t OWNER TO regress_owner;
INSERT INTO s.t VALUES (1);
SELECT cqrs_flush();
SELECT test_messages();
\set VERBOSITY terse
-- What is known is not said again; whose it was is nothing to say.
ALTER TABLE s.other OWNER TO regress_owner;
ALTER FUNCTION s.row_json(s.t) OWNER TO regress_friend;
ALTER TABLE s.t OWNER TO regress_mallory;
ROLLBACK;
BEGIN;
ALTER TABLE s.t OWNER TO regress_super;
ROLLBACK;
-- A member of the owner has its rights anyway, and so has a superuser.
BEGIN;
GRANT regress_owner TO regress_mallory;
ALTER TABLE s.t OWNER TO regress_owner;
ROLLBACK;
BEGIN;
ALTER FUNCTION s.row_json(s.t) OWNER TO regress_super;
ALTER FUNCTION s.meta OWNER TO regress_friend;
ALTER FUNCTION s.differs OWNER TO regress_friend;
ALTER TABLE s.t OWNER TO regress_friend;
ROLLBACK;
-- REASSIGN OWNED takes the functions along, but none of other roles.
BEGIN;
REASSIGN OWNED BY regress_mallory TO regress_owner;
ROLLBACK;
BEGIN;
ALTER FUNCTION s.meta OWNER TO regress_stranger;
ALTER FUNCTION s.data(s.t) OWNER TO regress_friend;
REASSIGN OWNED BY regress_mallory TO regress_owner;
ROLLBACK;
-- The owner of a function.
BEGIN;
ALTER FUNCTION s.row_json(s.t) OWNER TO regress_owner;
ALTER ROUTINE s.differs OWNER TO regress_owner;
REASSIGN OWNED BY regress_owner TO regress_friend;
ROLLBACK;
-- Functions of others are named when they are chosen.
BEGIN;
ALTER FUNCTION s.meta OWNER TO regress_owner;
SELECT cqrs_unregister('t');
SET SESSION AUTHORIZATION regress_mallory;
SELECT cqrs_register('s.t', serializer => 's.row_json', meta => 's.meta');
SELECT cqrs_alter('t', '{"fields": ["id"]}');
SELECT cqrs_alter('t', '{"meta": null}');
SELECT cqrs_alter('t', '{"meta": "s.meta"}');
ROLLBACK;
RESET SESSION AUTHORIZATION;
SELECT cqrs_unregister('t'), cqrs_unregister('other');

-- Replicas.
SET SESSION AUTHORIZATION regress_mallory;
CREATE FUNCTION s.handles(cqrs.message) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION s.retries(cqrs.message, int, text, text) RETURNS interval LANGUAGE sql STABLE AS $$SELECT interval '1 s'$$;
SELECT cqrs_register_replica('s.t', handler => 's.handles', retry => 's.retries');
SELECT cqrs_register_replica(NULL, 'tableless', handler => 's.handles', retry => 's.retries');
RESET SESSION AUTHORIZATION;
BEGIN;
ALTER TABLE s.t OWNER TO regress_owner;
ROLLBACK;
BEGIN;
ALTER FUNCTION s.handles OWNER TO regress_owner;
ROLLBACK;
BEGIN;
REASSIGN OWNED BY regress_mallory TO regress_owner;
ROLLBACK;
BEGIN;
ALTER FUNCTION s.retries OWNER TO regress_owner;
SELECT cqrs_alter_replica('t', '{"max_retries": 2}');
SELECT cqrs_alter_replica('t', '{"retry": null}');
SELECT cqrs_alter_replica('t', '{"retry": "s.retries"}');
SELECT cqrs_unregister_replica('t');
SELECT cqrs_register_replica('s.t', retry => 's.retries');
ROLLBACK;

SET client_min_messages = error;
SELECT cqrs_unregister_replica('t'), cqrs_unregister_replica('tableless');
REVOKE EXECUTE ON FUNCTION cqrs_register_replica FROM regress_mallory;
DROP SCHEMA s CASCADE;
DROP ROLE regress_mallory, regress_friend, regress_owner, regress_stranger, regress_super;
DELETE FROM cqrs.former;
SELECT test_skip();

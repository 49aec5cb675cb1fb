-- Messages of a master that is gone belong to the owner of its table: another role
-- can neither park them nor send them again by taking the name.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SELECT test_skip();
CREATE ROLE regress_alice;
CREATE ROLE regress_bob;
CREATE SCHEMA a AUTHORIZATION regress_alice;
CREATE SCHEMA b AUTHORIZATION regress_bob;
REVOKE ALL ON SCHEMA a, b FROM PUBLIC;
CREATE VIEW former AS SELECT f.cqrs_id, CASE WHEN r.oid IS NULL THEN 'dropped' WHEN r.rolsuper THEN 'superuser' ELSE r.rolname END
	FROM cqrs.former f LEFT JOIN pg_roles r ON r.oid = f.owner WHERE f.cqrs_id LIKE 'orders%' ORDER BY 1;

-- A parked DELETE, with the row that the function has failed for.
SET SESSION AUTHORIZATION regress_alice;
CREATE TABLE a.orders (id int PRIMARY KEY, card text);
CREATE FUNCTION a.fails(r a.orders) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$BEGIN RAISE 'bug'; END$$;
SELECT cqrs_register('a.orders', 'orders', on_error => 'park', delete_data => 'a.fails');
INSERT INTO a.orders VALUES (1, 'secret');
DELETE FROM a.orders;
RESET SESSION AUTHORIZATION;
SELECT cqrs_id, row_data::jsonb ->> 'card' FROM cqrs.parked;
SELECT test_skip();
SET SESSION AUTHORIZATION regress_alice;
DROP TABLE a.orders CASCADE;
SET SESSION AUTHORIZATION regress_bob;
CREATE TABLE b.orders (id int PRIMARY KEY, card text);
CREATE FUNCTION b.shows(r b.orders) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$BEGIN RAISE WARNING '%', r; RETURN to_jsonb(r); END$$;
SELECT test_error($$SELECT cqrs_register('b.orders', 'orders', delete_data => 'b.shows')$$);
SELECT test_error($$SELECT cqrs_retry_parked('orders')$$);
SELECT cqrs_register('b.orders', 'orders_of_b');
RESET SESSION AUTHORIZATION;
SELECT * FROM former;
SELECT count(*) FROM cqrs.parked;
-- Their owner makes another table, and has them made again.
SET SESSION AUTHORIZATION regress_alice;
CREATE TABLE a.orders (id int PRIMARY KEY, card text);
CREATE FUNCTION a.works(r a.orders) RETURNS jsonb LANGUAGE sql STABLE AS $$SELECT jsonb_build_object('card', length(r.card))$$;
SELECT cqrs_register('a.orders', 'orders', delete_data => 'a.works');
SELECT cqrs_retry_parked('orders');
RESET SESSION AUTHORIZATION;
SELECT test_messages();
SELECT count(*) FROM cqrs.parked;
SELECT * FROM former;
SELECT cqrs_unregister('orders_of_b');

-- Pending messages, after cqrs_unregister().
SET SESSION AUTHORIZATION regress_alice;
INSERT INTO a.orders VALUES (2, 'secret');
SELECT cqrs_unregister('orders');
SET SESSION AUTHORIZATION regress_bob;
SELECT test_error($$SELECT cqrs_register('b.orders', 'orders')$$);
SELECT test_error($$SELECT cqrs_park_held('orders')$$);
RESET SESSION AUTHORIZATION;
SELECT test_messages();
-- What was parked and discarded is not pending, although it is in the outbox.
SELECT cqrs_park_held('orders');
SET SESSION AUTHORIZATION regress_bob;
SELECT test_error($$SELECT cqrs_register('b.orders', 'orders')$$);
RESET SESSION AUTHORIZATION;
DELETE FROM cqrs.parked;
SELECT cqrs_id FROM cqrs.outbox WHERE cqrs_id = 'orders' LIMIT 1;
SET SESSION AUTHORIZATION regress_bob;
SELECT cqrs_register('b.orders', 'orders');
SELECT cqrs_unregister('orders');
RESET SESSION AUTHORIZATION;
SELECT * FROM former;
-- Published messages are nobody's.
SELECT test_skip();
SET SESSION AUTHORIZATION regress_alice;
SELECT cqrs_register('a.orders', 'orders');
RESET SESSION AUTHORIZATION;

-- A superuser decides, and so does whoever has the privileges of the owner.
INSERT INTO a.orders VALUES (3, 'secret');
SELECT cqrs_unregister('orders');
BEGIN;
SELECT cqrs_register('b.orders', 'orders');
SELECT cqrs_park_held('orders');
SELECT * FROM former;
ROLLBACK;
BEGIN;
SELECT cqrs_park_held('orders');
SELECT cqrs_register('b.orders', 'orders');
ROLLBACK;
BEGIN;
GRANT regress_alice TO regress_bob;
SET SESSION AUTHORIZATION regress_bob;
SELECT cqrs_register('b.orders', 'orders');
ROLLBACK;
BEGIN;
GRANT regress_bob TO regress_alice;
SET SESSION AUTHORIZATION regress_alice;
SELECT cqrs_register('b.orders', 'orders');
ROLLBACK;
-- The owner takes the name back, also in the transaction that has given it up.
SET SESSION AUTHORIZATION regress_alice;
BEGIN;
SELECT cqrs_register('a.orders', 'orders');
SELECT cqrs_unregister('orders');
SELECT cqrs_register('a.orders', 'orders');
SELECT cqrs_park_held('orders');
COMMIT;
SELECT cqrs_retry_parked('orders');
RESET SESSION AUTHORIZATION;
SELECT test_messages();
SELECT * FROM former;
-- Messages go with the table to its new owner.
BEGIN;
ALTER TABLE a.orders OWNER TO regress_bob;
GRANT USAGE ON SCHEMA a TO regress_bob;
SET SESSION AUTHORIZATION regress_bob;
SELECT cqrs_park_held('orders') > 0;
SELECT cqrs_retry_parked('orders') > 0;
SELECT cqrs_flush() > 0;
DROP TABLE a.orders CASCADE;
RESET SESSION AUTHORIZATION;
SELECT * FROM former;
ROLLBACK;

-- All ways to drop a table.
BEGIN;
DROP SCHEMA a CASCADE;
SELECT * FROM former;
ROLLBACK;
BEGIN;
DROP OWNED BY regress_alice;
SELECT * FROM former;
ROLLBACK;
BEGIN;
DO $$BEGIN EXECUTE 'DROP TABLE a.orders CASCADE'; END$$;
SELECT * FROM former;
SAVEPOINT s;
CREATE TABLE orders (id int PRIMARY KEY);
SELECT cqrs_register('orders');
SELECT * FROM former;
DROP TABLE orders;
SELECT * FROM former;
ROLLBACK TO s;
SELECT * FROM former;
ROLLBACK;
SELECT * FROM former;
-- The role is dropped.
DROP OWNED BY regress_alice;
DROP ROLE regress_alice;
SELECT * FROM former;
SET SESSION AUTHORIZATION regress_bob;
SELECT regexp_replace(test_error($$SELECT cqrs_register('b.orders', 'orders')$$), 'role "\d+"', 'role "OID"');
RESET SESSION AUTHORIZATION;
SELECT cqrs_park_held('orders') > 0;
DELETE FROM cqrs.parked;

DROP VIEW former;
DELETE FROM cqrs.former;
SELECT test_skip();
DROP OWNED BY regress_bob;
DROP ROLE regress_bob;

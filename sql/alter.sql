-- cqrs_alter and cqrs_unregister; several masters of a table; DDL on it.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, name text, secret text);
CREATE FUNCTION t_meta(t, text, jsonb, jsonb) RETURNS jsonb
	LANGUAGE sql STABLE AS $$SELECT jsonb_build_object('name', $1.name)$$;
SELECT cqrs_register('t');
SELECT cqrs_register('t', 'narrow', fields => '{id,name}');
SELECT test_skip();

-- Every option, and null.
SELECT cqrs_alter('t', '{"fields": ["id", "name"], "tracked_fields": ["name"],
	"field_map": {"name": "label"}, "meta": "t_meta", "produce": true}');
SELECT * FROM cqrs.master ORDER BY 1;
INSERT INTO t VALUES (1, 'a', 's');
SELECT test_messages();
SELECT cqrs_alter('t', '{}');
SELECT cqrs_alter('t', '{"fields": null, "tracked_fields": null, "field_map": null, "meta": null}');
SELECT cqrs_alter('narrow', '{"produce": false}');
SELECT * FROM cqrs.master ORDER BY 1;
UPDATE t SET name = 'b';
SELECT test_messages();
SELECT cqrs_alter('narrow', '{"produce": true, "tracked_fields": ["*"]}');
UPDATE t SET name = 'c';
SELECT test_messages();

-- In a transaction with the rollback of it.
BEGIN;
SELECT cqrs_alter('t', '{"produce": false}');
ROLLBACK;
UPDATE t SET name = 'd';
SELECT test_messages();

-- What is refused.
SELECT test_error('SELECT cqrs_alter(''nope'', ''{}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''[]'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''null'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"cqrs_id": "x"}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"fields": "id"}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"fields": []}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"fields": ["id", 1]}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"fields": ["id", ["name"]]}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"fields": {"id": "id"}}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"fields": ["id", "nope"]}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"tracked_fields": true}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"field_map": ["a"]}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"field_map": "a"}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"meta": 1}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"meta": "nope"}'')');
SELECT test_error('SELECT cqrs_alter(''t'', ''{"produce": "on"}'')');
SELECT test_error('SELECT cqrs_alter(NULL, ''{}'')');
SELECT test_error('SELECT cqrs_alter(''t'', NULL)');
SELECT test_error('SELECT cqrs_unregister(''nope'')');
SELECT test_error('SELECT cqrs_unregister(NULL)');
CREATE ROLE regress_other;
SET ROLE regress_other;
SELECT test_error('SELECT cqrs_alter(''t'', ''{}'')');
SELECT test_error('SELECT cqrs_unregister(''t'')');
RESET ROLE;
DROP ROLE regress_other;
SELECT * FROM cqrs.master ORDER BY 1;

-- A master less; the triggers go with the last one, the columns stay.
SELECT cqrs_unregister('t');
UPDATE t SET name = 'e';
SELECT test_messages();
SELECT cqrs_unregister('narrow');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass;
UPDATE t SET name = 'f';
SELECT test_messages();
SELECT * FROM (SELECT id, name, secret, cqrs_revision FROM t) t;

DROP TABLE t CASCADE;

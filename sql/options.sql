-- Options of masters that need no function: skip_unchanged, message_ttl,
-- exchange, routing_key, on_truncate, replication.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
SELECT test_skip();
CREATE TABLE o (id int PRIMARY KEY, a text, b text);

-- skip_unchanged: updates of other columns neither send nor count.
SELECT cqrs_register('o', fields => '{id,a}', skip_unchanged => true);
INSERT INTO o VALUES (1, 'a', 'b'), (2, 'a', 'b');
UPDATE o SET b = 'c';
UPDATE o SET a = 'a';
SELECT id, cqrs_revision FROM o ORDER BY 1;
UPDATE o SET a = 'x' WHERE id = 1;
SELECT test_messages();
-- In one transaction: the first update that counts raises the revision, once.
BEGIN;
UPDATE o SET b = 'd';
UPDATE o SET a = 'y' WHERE id = 1;
UPDATE o SET a = 'z', b = 'e' WHERE id = 1;
UPDATE o SET b = 'f';
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE o SET a = 'w' WHERE id = 1;
UPDATE o SET b = 'g';
UPDATE o SET a = 'v' WHERE id = 1;
INSERT INTO o VALUES (3, 'new', 'n');
UPDATE o SET b = 'h' WHERE id = 3;
UPDATE o SET a = 'newer' WHERE id = 3;
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE o SET b = 'i' WHERE id = 2;
DELETE FROM o WHERE id = 2;
UPDATE o SET b = 'i', id = 4 WHERE id = 3;
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE o SET b = 'j' WHERE id = 1;
SAVEPOINT s;
UPDATE o SET a = 'gone' WHERE id = 1;
ROLLBACK TO s;
UPDATE o SET a = 'kept' WHERE id = 1;
COMMIT;
SELECT test_messages();
-- Another master that does not skip has the revision raised for all; only it
-- sends.
SELECT cqrs_register('o', 'every');
UPDATE o SET b = 'k' WHERE id = 1;
SELECT test_messages();
SELECT cqrs_unregister('every');
-- Generated columns, which PostgreSQL computes after the triggers.
CREATE TABLE og (id int PRIMARY KEY, a int, b int, other text,
	g int GENERATED ALWAYS AS (a / 10 + coalesce(b, 0)) STORED,
	fixed text GENERATED ALWAYS AS ('f') STORED);
SELECT cqrs_register('og', fields => '{id,g,fixed}', skip_unchanged => true);
INSERT INTO og VALUES (1, 10, 1, 'x'), (2, NULL, 1, 'x');
UPDATE og SET other = 'y';
UPDATE og SET a = 11, b = 1;
UPDATE og SET a = 12 WHERE id = 1;
UPDATE og SET a = 0, b = 2 WHERE id = 1;
SELECT id, g, cqrs_revision FROM og ORDER BY 1;
BEGIN;
UPDATE og SET a = 1 WHERE id = 1;
UPDATE og SET a = 20 WHERE id = 1;
COMMIT;
SELECT id, g, cqrs_revision FROM og ORDER BY 1;
SELECT test_messages();
SELECT test_error('UPDATE og SET a = 2147483647, b = 2147483647');
DROP TABLE og;
-- The application may raise the revision itself.
UPDATE o SET cqrs_revision = 40 WHERE id = 1;
UPDATE o SET a = 'l' WHERE id = 1;
SELECT test_messages();
SELECT cqrs_alter('o', '{"skip_unchanged": false, "fields": null}');

-- Where a message goes, and for how long.
SELECT cqrs_alter('o', '{"exchange": "other", "routing_key": "o.all", "message_ttl": 60}');
UPDATE o SET a = 'm' WHERE id = 1;
SELECT cqrs_sync('o', 'id = 1', 'replica');
SELECT m.exchange, m.routing_key, m.message_ttl, m.queue FROM cqrs.segment_0 s, cqrs.unpack(s.id, s.messages) m, test_mark
	WHERE m.id > test_mark.id ORDER BY m.id;
SELECT (body::json ->> 'expires')::timestamptz - now() BETWEEN '58 s' AND '61 s' FROM cqrs.outbox, test_mark WHERE outbox.id > test_mark.id;
SELECT cqrs_alter('o', '{"exchange": null, "routing_key": null, "message_ttl": 0}');
SELECT test_skip();
UPDATE o SET a = 'n' WHERE id = 1;
SELECT body::json ->> 'expires' FROM cqrs.outbox, test_mark WHERE outbox.id > test_mark.id;
SELECT test_skip();
SELECT test_error($q$SELECT cqrs_alter('o', '{"message_ttl": -1}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"message_ttl": "1h"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"message_ttl": 99999999999}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"message_ttl": 1.5}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"exchange": ""}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"exchange": 1}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"exchange": "amq.direct"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"exchange": "amq."}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"exchange": "cqrs.lease"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"exchange": "a\nb"}')$q$);
SELECT test_error(format($q$SELECT cqrs_alter('o', '{"exchange": "%s"}')$q$, repeat('ü', 128)));
SELECT test_error(format($q$SELECT cqrs_alter('o', '{"routing_key": "%s"}')$q$, repeat('ü', 128)));
SELECT test_error($q$SELECT cqrs_register('o', 'o_amq', exchange => 'amq.bad1')$q$);
SELECT cqrs_alter('o', '{"exchange": "amq.topic"}');
SELECT cqrs_alter('o', '{"exchange": "amqp"}');
SELECT cqrs_alter('o', '{"exchange": null}');
SELECT test_error($q$SELECT cqrs_alter('o', jsonb_build_object('routing_key', repeat('x', 256)))$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"on_truncate": "no"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"on_error": "no"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"skip_unchanged": 1}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"replication": "local"}')$q$);
SELECT test_error($q$SELECT cqrs_alter('o', '{"delete_data": 1}')$q$);
SELECT test_error($q$SELECT cqrs_register('o', 'o2', message_ttl => -1)$q$);
SELECT test_error($q$SELECT cqrs_register('o', 'o2', leave => 'x')$q$);

-- TRUNCATE.
SELECT cqrs_register('o', 'ignores', on_truncate => 'ignore');
TRUNCATE o;
SELECT test_messages();
-- Also where keys have passed from row to row: DELETEs first.
INSERT INTO o VALUES (1, 'a'), (2, 'b');
SELECT test_skip();
BEGIN;
UPDATE o SET a = 'c' WHERE id = 2;
UPDATE o SET id = 3 WHERE id = 1;
UPDATE o SET id = 1 WHERE id = 2;
TRUNCATE o;
COMMIT;
SELECT test_messages();
SELECT cqrs_alter('ignores', '{"on_truncate": "refuse"}');
SELECT test_error('TRUNCATE o');
SELECT cqrs_unregister('ignores');

-- Which changes count, by session_replication_role.
SELECT test_error($q$SELECT cqrs_register('o', 'o2', replication => 'always')$q$);
INSERT INTO o VALUES (1, 'local');
SET session_replication_role = replica;
INSERT INTO o VALUES (2, 'applied');
RESET session_replication_role;
SELECT test_messages();
SELECT cqrs_register('o', 'o2', fields => '{id}');
SELECT cqrs_alter('o', '{"replication": "replica"}');
SELECT cqrs_id, replication FROM cqrs.master WHERE relation = 'o'::regclass ORDER BY 1;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'o'::regclass ORDER BY 1;
UPDATE o SET a = 'local' WHERE id = 1;
SET session_replication_role = replica;
UPDATE o SET a = 'applied' WHERE id = 2;
RESET session_replication_role;
SELECT test_messages();
SELECT cqrs_alter('o2', '{"replication": "always"}');
UPDATE o SET a = 'local 2' WHERE id = 1;
SET session_replication_role = replica;
UPDATE o SET a = 'applied 2' WHERE id = 2;
TRUNCATE o;
RESET session_replication_role;
SELECT test_messages();
SELECT cqrs_alter('o2', '{"replication": "origin"}');
-- An outbox that logical replication brings, by a publication FOR ALL TABLES, is
-- the publisher's own business.
SET session_replication_role = replica;
INSERT INTO cqrs.segment_0 SELECT id + 1000000, last_id + 1000000, committed_at, messages
	FROM cqrs.segment_0 ORDER BY id DESC LIMIT 3;
RESET session_replication_role;
SELECT test_messages();
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'o'::regclass ORDER BY 1;
DROP TABLE o;

-- Partitioned tables: the root is registered, its partitions are captured.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = error;
SELECT test_skip();
CREATE TABLE p (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu');
-- Columns in another order, one dropped.
CREATE TABLE p_us (v text, gone int, region text NOT NULL, id int NOT NULL, PRIMARY KEY (id, region));
ALTER TABLE p_us DROP COLUMN gone;
ALTER TABLE p ATTACH PARTITION p_us FOR VALUES IN ('us');
CREATE FUNCTION p_meta(r p, signal_type text, instance_data jsonb, previous_data jsonb) RETURNS jsonb
	STABLE LANGUAGE sql AS $$SELECT jsonb_build_object('v', r.v, 'region', r.region)$$;
SELECT cqrs_register('p', tracked_fields => '{v}', meta => 'p_meta');
SELECT cqrs_register('p', 'narrow', fields => '{region,id}', sync_when => 'id < 100');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname ~ '_cqrs_' AND tgrelid::regclass::text LIKE 'p%' ORDER BY tgrelid::regclass::text, 2;

INSERT INTO p VALUES (1, 'eu', 'a'), (2, 'us', 'b'), (200, 'us', 'b');
SELECT test_messages();
UPDATE p SET v = 'c';
INSERT INTO p_us (id, region, v) VALUES (3, 'us', 'direct');
DELETE FROM p WHERE id = 3;
SELECT test_messages();
-- A row moves: its key contains the partition key, so it is another row.
UPDATE p SET region = 'us' WHERE id = 1;
SELECT test_messages();
BEGIN;
UPDATE p SET v = 'd' WHERE id = 2;
UPDATE p SET region = 'eu' WHERE id = 2;
UPDATE p SET v = 'e' WHERE id = 2;
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE p SET region = 'eu' WHERE id = 1;
UPDATE p SET region = 'us' WHERE id = 1;
COMMIT;
SELECT test_messages();
BEGIN;
UPDATE p SET region = 'eu' WHERE id = 1;
DELETE FROM p WHERE id = 1;
INSERT INTO p VALUES (1, 'us', 'new');
COMMIT;
SELECT test_messages();

-- Partitions that come later, also with partitions of their own.
CREATE TABLE p_as PARTITION OF p FOR VALUES IN ('as') PARTITION BY HASH (id);
CREATE TABLE p_as0 PARTITION OF p_as FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE p_as1 (LIKE p INCLUDING ALL);
INSERT INTO p_as1 (id, region, v) SELECT i, 'as', 'before' FROM generate_series(1, 20) i
	WHERE satisfies_hash_partition('p_as'::regclass, 2, 1, i) LIMIT 1;
ALTER TABLE p_as ATTACH PARTITION p_as1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT test_messages();
INSERT INTO p SELECT i, 'as', 'x' FROM generate_series(50, 53) i;
SELECT count(*) FROM test_messages();
TRUNCATE p_as1;
SELECT count(*) > 0 FROM test_messages();
TRUNCATE p_as;
SELECT count(*) > 0 FROM test_messages();
SELECT count(*) FROM cqrs_sync('p');
SELECT test_messages();
SELECT cqrs_sync('p', 'region = ''us''', 'queue');
SELECT cqrs_sync(p) FROM p WHERE id = 2;
SELECT cqrs_sync(p) FROM p WHERE region = 'us';
SELECT cqrs_sync(ROW(99, 'eu', 'not there', 0, now())::p);
SELECT cqrs_sync(p_us) FROM p_us WHERE id = 200;
SELECT test_messages();
SELECT test_undated(line) FROM cqrs_bulk_dump('p') line;
TRUNCATE p;
SELECT test_messages();

-- Options reach all partitions, in sessions that have seen them already.
SELECT cqrs_alter('p', '{"fields": ["id", "region"], "tracked_fields": null, "meta": null, "replication": "always"}');
INSERT INTO p VALUES (1, 'eu', 'a'), (2, 'us', 'b');
SELECT test_messages();
SELECT tgenabled, count(*) FROM pg_trigger WHERE tgname ~ '_cqrs_' AND tgrelid::regclass::text LIKE 'p%' GROUP BY 1;
CREATE TABLE p_af PARTITION OF p FOR VALUES IN ('af');
SELECT tgenabled, count(*) FROM pg_trigger WHERE tgname ~ '_cqrs_' AND tgrelid::regclass::text LIKE 'p%' GROUP BY 1;
SET session_replication_role = replica;
INSERT INTO p VALUES (1, 'af', 'a');
RESET session_replication_role;
SELECT test_messages();
-- A partition that leaves is no part of the master any more.
BEGIN;
UPDATE p_af SET id = id;
SELECT test_error('ALTER TABLE p DETACH PARTITION p_af');
SELECT test_error('DROP TABLE p_af');
SELECT test_error('DROP TABLE p CASCADE');
ROLLBACK;
ALTER TABLE p DETACH PARTITION p_af;
UPDATE p_af SET v = 'x';
TRUNCATE p_af;
SELECT test_messages();

-- What cannot be registered.
SELECT test_error('SELECT cqrs_register(''p_us'')');
SELECT test_error('SELECT cqrs_register(''p_as'')');

CREATE TABLE q (id int, PRIMARY KEY (id)) PARTITION BY LIST (id);
CREATE TABLE q0 PARTITION OF q FOR VALUES IN (0);
CREATE UNLOGGED TABLE q1 PARTITION OF q FOR VALUES IN (1);
SELECT test_error('SELECT cqrs_register(''q'')');
DROP TABLE q1;
SELECT cqrs_register('q');
SELECT test_error('CREATE UNLOGGED TABLE q1 PARTITION OF q FOR VALUES IN (1)');
SELECT cqrs_unregister('q');
SELECT cqrs_unregister('narrow');
SELECT cqrs_unregister('p');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname ~ '_cqrs_' AND tgrelid::regclass::text LIKE 'p%' ORDER BY tgrelid::regclass::text, 2;

DROP TABLE p, p_af, q CASCADE;

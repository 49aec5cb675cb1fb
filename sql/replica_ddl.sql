-- Each change of the schema below a replica: it is refused, or messages are
-- applied after it.  sql/replica_register.sql has what the definition becomes.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;

CREATE FUNCTION apply(signal text, id text, pk int, revision int, data json DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	RETURN cqrs_apply(cqrs.parse_message(json_build_object('signal_type', signal, 'cqrs_id', id, 'instance_pk', pk,
		'instance_data', jsonb_build_object('id', pk, 'cqrs_revision', revision, 'cqrs_updated', '2026-01-01 00:00:00+00:00')
			|| CASE signal WHEN 'DELETE' THEN '{}' ELSE data::jsonb END)::text));
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' ', SQLSTATE, SQLERRM, '(' || nullif(detail, '') || ')');
END
$$;
-- What a command does, and then messages of an old row, a new one, and a DELETE
-- to a replica; all is undone.
CREATE FUNCTION after(command text, id text DEFAULT 't', pk int DEFAULT 2) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	detail text;
BEGIN
	BEGIN
		EXECUTE command;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		result := concat_ws(' ', SQLSTATE, SQLERRM, '(' || nullif(detail, '') || ')');
	END;
	IF result IS NULL THEN
		result := concat_ws(', ', apply('SAVE', id, 1, 1, '{"title": "new", "feeling": "bad"}'),
			apply('SAVE', id, pk, 0, '{"title": "new", "feeling": "bad"}'), apply('DELETE', id, 1, 1));
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'ZZ999', MESSAGE = result;
EXCEPTION WHEN SQLSTATE 'ZZ999' THEN
	RETURN SQLERRM;
END
$$;

CREATE ROLE regress_owner;
GRANT CREATE ON SCHEMA public TO regress_owner;
CREATE TYPE mood AS ENUM ('fine', 'bad');
CREATE DOMAIN short AS text;
CREATE SCHEMA elsewhere;
CREATE TABLE plain (id int NOT NULL);
CREATE TABLE log (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.log VALUES (TG_OP); RETURN NEW; END$$;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'trigger'; END$$;
CREATE TABLE t (id int PRIMARY KEY, name varchar(10), feeling mood, label short, secret text, gone bool);
CREATE TRIGGER note BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE t OWNER TO regress_owner;
GRANT INSERT ON log TO regress_owner;
SELECT cqrs_register_replica('t', fields => '{id,name,feeling}', field_map => '{"name": "title"}', soft_delete => 'gone');
SELECT apply('SAVE', 't', 1, 0, '{"title": "old", "feeling": "fine"}');

CREATE TABLE commands (n serial, command text);
INSERT INTO commands (command) VALUES
	('SELECT'),
	-- Columns.
	('ALTER TABLE t ADD COLUMN added text'),
	('ALTER TABLE t ADD COLUMN added int NOT NULL DEFAULT 7'),
	('ALTER TABLE t ADD COLUMN added timestamptz DEFAULT clock_timestamp()'),
	('ALTER TABLE t ADD COLUMN added int GENERATED ALWAYS AS IDENTITY'),
	('ALTER TABLE t ADD COLUMN added int GENERATED ALWAYS AS (id + 1) STORED'),
	('DELETE FROM t; ALTER TABLE t ADD COLUMN added int NOT NULL'),
	('ALTER TABLE t ADD COLUMN title text'),
	('ALTER TABLE t DROP COLUMN secret'),
	('ALTER TABLE t DROP COLUMN name'),
	('ALTER TABLE t DROP COLUMN gone'),
	('ALTER TABLE t DROP COLUMN id CASCADE'),
	('ALTER TABLE t DROP COLUMN cqrs_revision'),
	('ALTER TABLE t RENAME COLUMN name TO other'),
	('ALTER TABLE t RENAME COLUMN id TO other'),
	('ALTER TABLE t RENAME COLUMN gone TO other'),
	('ALTER TABLE t RENAME COLUMN secret TO title'),
	('ALTER TABLE t RENAME COLUMN cqrs_updated TO other'),
	('ALTER TABLE t ALTER COLUMN name TYPE text'),
	('ALTER TABLE t ALTER COLUMN name TYPE varchar(2) USING left(name, 2)'),
	('ALTER TABLE t ALTER COLUMN name TYPE int USING 1'),
	('ALTER TABLE t ALTER COLUMN id TYPE bigint'),
	('ALTER TABLE t ALTER COLUMN id TYPE text'),
	('ALTER TABLE t ALTER COLUMN cqrs_revision TYPE bigint'),
	('ALTER TABLE t ALTER COLUMN gone TYPE timestamptz USING NULL'),
	('ALTER TABLE t ALTER COLUMN gone TYPE text'),
	('ALTER TABLE t ALTER COLUMN name SET NOT NULL'),
	('UPDATE t SET secret = ''y''; ALTER TABLE t ALTER COLUMN secret SET DEFAULT ''x'', ALTER COLUMN secret SET NOT NULL'),
	('ALTER TABLE t ALTER COLUMN cqrs_revision DROP NOT NULL'),
	('ALTER TABLE t ALTER COLUMN cqrs_revision SET DEFAULT 5'),
	('ALTER TABLE t ALTER COLUMN name SET STATISTICS 10, ALTER COLUMN name SET STORAGE EXTERNAL'),
	-- Types.
	('DROP TYPE mood CASCADE'),
	('DROP DOMAIN short CASCADE'),
	('ALTER TYPE mood RENAME VALUE ''bad'' TO ''sad'''),
	('ALTER TYPE mood SET SCHEMA elsewhere'),
	('ALTER TYPE mood RENAME TO temper'),
	('DROP OWNED BY regress_owner CASCADE'),
	-- Constraints and indexes.
	('ALTER TABLE t DROP CONSTRAINT t_pkey'),
	('ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id)'),
	('ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, cqrs_revision)'),
	('ALTER TABLE t RENAME CONSTRAINT t_pkey TO renamed'),
	('ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE'),
	('ALTER TABLE t ADD CHECK (name <> ''new'') NOT VALID'),
	('ALTER TABLE t ADD UNIQUE (name)'),
	('CREATE INDEX ON t (name); REINDEX TABLE t; CLUSTER t USING t_pkey'),
	-- The table itself.
	('ALTER TABLE t RENAME TO u'),
	('ALTER TABLE t SET SCHEMA elsewhere'),
	('ALTER TABLE t SET SCHEMA elsewhere; ALTER SCHEMA elsewhere RENAME TO nowhere'),
	('ALTER TABLE t SET UNLOGGED'),
	('ALTER TABLE t SET (fillfactor = 50), REPLICA IDENTITY FULL'),
	('ALTER TABLE t INHERIT plain'),
	('CREATE TABLE child () INHERITS (t)'),
	('CREATE TABLE child (LIKE t); ALTER TABLE child INHERIT t'),
	('CREATE TABLE parted (LIKE t) PARTITION BY LIST (id); ALTER TABLE parted ATTACH PARTITION t FOR VALUES IN (1)'),
	('ALTER TABLE t ENABLE ROW LEVEL SECURITY'),
	('ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY'),
	('ALTER TABLE t OWNER TO CURRENT_USER'),
	('REVOKE ALL ON t FROM regress_owner'),
	('TRUNCATE t'),
	('DROP TABLE t'),
	('DROP TABLE t CASCADE'),
	('ALTER TABLE t SET SCHEMA elsewhere; DROP SCHEMA elsewhere CASCADE'),
	-- Triggers, rules, functions.
	('ALTER TABLE t DISABLE TRIGGER note'),
	('ALTER TABLE t DISABLE TRIGGER ALL'),
	('ALTER TABLE t DISABLE TRIGGER USER'),
	('DROP TRIGGER note ON t'),
	('DROP FUNCTION note() CASCADE'),
	('CREATE TRIGGER bad BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fail()'),
	('CREATE TRIGGER bad BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fail(); ALTER TABLE t DISABLE TRIGGER bad'),
	('CREATE TRIGGER bad BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fail(); ALTER TABLE t ENABLE REPLICA TRIGGER bad'),
	('CREATE RULE nothing AS ON INSERT TO t DO INSTEAD NOTHING'),
	-- What others have.
	('SELECT cqrs_register(''t'', ''master'')');
SELECT command || ': ' || after(command) FROM commands ORDER BY n;
-- Nothing has remained.
SELECT after('SELECT'), (SELECT count(*) FROM log), (SELECT string_agg(name, ',') FROM t);

-- Partitions: rows go where there is one for them.
CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
CREATE TABLE p1 PARTITION OF root FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF root FOR VALUES IN (2);
SELECT cqrs_register_replica('root');
SELECT apply('SAVE', 'root', 1, 0);
CREATE TABLE own (id int PRIMARY KEY, v text);
SELECT cqrs_register_replica('own');
CREATE TABLE master (id int PRIMARY KEY, v text);
SELECT cqrs_register('master');
CREATE TABLE p3 (LIKE root INCLUDING ALL);
TRUNCATE commands RESTART IDENTITY;
INSERT INTO commands (command) VALUES
	('SELECT'),
	('CREATE TABLE p3_new PARTITION OF root FOR VALUES IN (3)'),
	('CREATE TABLE rest PARTITION OF root DEFAULT'),
	('ALTER TABLE root ATTACH PARTITION p3 FOR VALUES IN (3)'),
	('ALTER TABLE p3 SET UNLOGGED; ALTER TABLE root ATTACH PARTITION p3 FOR VALUES IN (3)'),
	('CREATE UNLOGGED TABLE p3_new PARTITION OF root FOR VALUES IN (3)'),
	('ALTER TABLE root ATTACH PARTITION own FOR VALUES IN (3)'),
	('ALTER TABLE root ATTACH PARTITION master FOR VALUES IN (3)'),
	('ALTER TABLE root DETACH PARTITION p1'),
	('ALTER TABLE root DETACH PARTITION p1; ALTER TABLE root ATTACH PARTITION p1 FOR VALUES IN (1)'),
	('DROP TABLE p1'),
	('TRUNCATE p1'),
	('ALTER TABLE p1 RENAME TO p9; ALTER TABLE p9 SET SCHEMA elsewhere'),
	('ALTER TABLE p1 SET UNLOGGED'),
	('ALTER TABLE p1 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY'),
	('ALTER TABLE root DROP COLUMN v'),
	('ALTER TABLE root RENAME COLUMN v TO w'),
	('ALTER TABLE root ADD COLUMN w int DEFAULT 1'),
	('DROP TABLE root');
SELECT command || ': ' || after(command, 'root', CASE WHEN n BETWEEN 2 AND 8 THEN 3 ELSE 2 END) FROM commands ORDER BY n;

SELECT cqrs_unregister_replica(r.cqrs_id) FROM cqrs.replica r ORDER BY r.cqrs_id;
SELECT cqrs_unregister('master');
DROP TABLE t, root, own, master, p3, plain, log, commands;
DROP FUNCTION note, fail, after, apply;
DROP TYPE mood;
DROP DOMAIN short;
DROP SCHEMA elsewhere;
REVOKE CREATE ON SCHEMA public FROM regress_owner;
DROP ROLE regress_owner;
SELECT test_skip();

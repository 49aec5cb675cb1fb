-- Messages into tables of all kinds.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
-- What becomes of a message: the outcome, or the error.
CREATE FUNCTION apply(signal text, id text, data text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	RETURN cqrs_apply(ROW(signal, id, left(data, -1) || ',"cqrs_updated":"2026-11-23T00:00:00Z"}', NULL, '1', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' ', SQLSTATE, SQLERRM, '(' || nullif(detail, '') || ')');
END
$$;

-- Columns: generated, identity, dropped, with a default; in another order than
-- the keys of the message.
CREATE TABLE odd (gone1 text, total int GENERATED ALWAYS AS (a + b) STORED, b int, gone2 int,
	cqrs_updated timestamptz NOT NULL, serial int GENERATED ALWAYS AS IDENTITY, a int,
	made text DEFAULT 'made by ' || current_user, id int, cqrs_revision int NOT NULL, long text, PRIMARY KEY (id));
ALTER TABLE odd DROP COLUMN gone1, DROP COLUMN gone2;
SELECT cqrs_register_replica('odd');
SELECT apply('SAVE', 'odd', '{"a":1,"id":1,"b":2,"cqrs_revision":0,"total":99}');
SELECT apply('SAVE', 'odd', '{"id":2,"cqrs_revision":0,"a":3,"b":4,"serial":50,"made":null}');
SELECT apply('SAVE', 'odd', '{"id":1,"cqrs_revision":1,"b":10}');
SELECT apply('SAVE', 'odd', format('{"id":3,"cqrs_revision":0,"long":"%s"}', repeat('long text ', 100000)));
SELECT apply('SAVE', 'odd', '{"id":3,"cqrs_revision":1,"a":1}');
SELECT id, a, b, total, serial, replace(made, current_user, 'me'), cqrs_revision, length(long) FROM odd ORDER BY id;
-- In one transaction, the table is changed between messages.
BEGIN;
SELECT apply('SAVE', 'odd', '{"id":1,"cqrs_revision":2,"b":20,"extra":"unknown"}');
ALTER TABLE odd DROP COLUMN total, ADD COLUMN extra text;
SELECT apply('SAVE', 'odd', '{"id":1,"cqrs_revision":3,"b":30,"extra":"known"}');
SELECT id, b, extra FROM odd WHERE id = 1;
ROLLBACK;

-- A composite key, in another order than the columns.
CREATE TABLE two (b text, v text, a int, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL, PRIMARY KEY (a, b));
SELECT cqrs_register_replica('two');
SELECT apply('SAVE', 'two', '{"a":1,"b":"x","v":"first","cqrs_revision":0}');
SELECT apply('SAVE', 'two', '{"a":1,"b":"y","v":"second","cqrs_revision":0}');
SELECT apply('SAVE', 'two', '{"a":1,"b":"x","v":"changed","cqrs_revision":1}');
SELECT apply('SAVE', 'two', '{"a":1,"v":"no key","cqrs_revision":1}');
SELECT apply('DELETE', 'two', '{"id":[1,"y"],"cqrs_revision":1}');
SELECT apply('DELETE', 'two', '{"id":[1],"cqrs_revision":1}');
SELECT apply('DELETE', 'two', '{"id":1,"cqrs_revision":1}');
SELECT apply('DELETE', 'two', '{"id":[1,null],"cqrs_revision":1}');
SELECT a, b, v FROM two ORDER BY a, b;
-- Keys of other types and names; a key that is mapped.
CREATE TABLE keyed (the_key uuid PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('keyed', field_map => '{"the_key": "uid", "v": "value"}');
SELECT apply('SAVE', 'keyed', '{"uid":"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11","value":"new","cqrs_revision":0}');
SELECT apply('SAVE', 'keyed', '{"uid":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","value":"changed","the_key":1,"cqrs_revision":1}');
SELECT * FROM keyed;
SELECT apply('DELETE', 'keyed', '{"id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","cqrs_revision":2}');
SELECT * FROM keyed;
CREATE TABLE arrays (id int[] PRIMARY KEY, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('arrays');
SELECT apply('SAVE', 'arrays', '{"id":[1,2],"cqrs_revision":0}');
SELECT apply('DELETE', 'arrays', '{"id":[1,2],"cqrs_revision":0}');

-- Partitions: lists, hashes and ranges, with columns in another order.
CREATE TABLE parts (id int, kind text, v text DEFAULT 'default of the root', n int, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE part_a PARTITION OF parts FOR VALUES IN ('a', 'aa');
CREATE TABLE part_b (gone int, cqrs_updated timestamptz NOT NULL, v text DEFAULT 'default of the partition', n int, kind text, cqrs_revision int NOT NULL, id int, PRIMARY KEY (id, kind)) PARTITION BY HASH (id);
ALTER TABLE part_b DROP COLUMN gone;
CREATE TABLE part_b0 PARTITION OF part_b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
ALTER TABLE parts ATTACH PARTITION part_b FOR VALUES IN ('b');
CREATE TABLE part_c PARTITION OF parts FOR VALUES IN ('c') PARTITION BY RANGE (id);
CREATE TABLE part_c1 (cqrs_revision int NOT NULL, id int NOT NULL, cqrs_updated timestamptz NOT NULL, n int, kind text NOT NULL, v text);
ALTER TABLE part_c ATTACH PARTITION part_c1 FOR VALUES FROM (0) TO (100);
CREATE TABLE part_c2 PARTITION OF part_c FOR VALUES FROM (100) TO (200);
SELECT cqrs_register_replica('parts');
CREATE FUNCTION part(signal text, id int, kind text, rev int, v text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT apply(signal, 'parts', CASE WHEN signal = 'DELETE' THEN format('{"id":[%s,"%s"],"cqrs_revision":%s}', id, kind, rev)
		ELSE format('{"id":%s,"kind":"%s","cqrs_revision":%s%s}', id, kind, rev, format(',"v":"%s"', v)) END)
$$;
SELECT id, kind, part('SAVE', id, kind, 0, 'new') FROM unnest('{a,aa,b,c}'::text[]) kind, unnest('{1,2,3,100}'::int[]) id ORDER BY kind, id;
SELECT part('SAVE', 4, 'x', 0, 'no such partition');
SELECT part('SAVE', 200, 'c', 0, 'no such partition');
SELECT id, kind, part('SAVE', id, kind, 1, 'changed') FROM unnest('{a,c}'::text[]) kind, unnest('{1,100}'::int[]) id ORDER BY kind, id;
SELECT apply('SAVE', 'parts', '{"id":5,"kind":"c","cqrs_revision":0}');
SELECT tableoid::regclass, id, kind, v, n, cqrs_revision FROM parts ORDER BY 1, id, kind;
SELECT id, kind, part('DELETE', id, kind, 1) FROM unnest('{a,b,c,x}'::text[]) kind, unnest('{1,2,3,100,300}'::int[]) id ORDER BY kind, id;
CREATE TABLE part_default PARTITION OF parts DEFAULT;
SELECT part('DELETE', 4, 'x', 0);
SELECT part('SAVE', 4, 'x', 0, 'default partition');
SELECT part('DELETE', 4, 'x', 0);
SELECT count(*) FROM parts;
-- Triggers of partitioned tables, constraint triggers, and moves by them.
CREATE TABLE log (entry text);
CREATE FUNCTION log_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.log VALUES (concat_ws(' ', TG_NAME, TG_TABLE_NAME, TG_WHEN, TG_OP, coalesce(NEW.id, OLD.id)));
	RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER u AFTER INSERT OR UPDATE OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE CONSTRAINT TRIGGER d AFTER INSERT OR UPDATE OR DELETE ON parts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER s AFTER INSERT ON parts FOR EACH STATEMENT EXECUTE FUNCTION log_row();
SELECT part('SAVE', 7, 'c', 0, 'logged');
SELECT part('SAVE', 7, 'c', 1, 'logged');
SELECT part('DELETE', 7, 'c', 1);
SELECT * FROM log;
TRUNCATE log;

-- A BEFORE trigger cancels, or changes the row; UPDATE OF.
CREATE TABLE guarded (id int PRIMARY KEY, v text, w text, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('guarded');
CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.v = 'no' THEN
		RETURN NULL;
	END IF;
	NEW.w := NEW.v || '!';
	RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION guard();
CREATE TRIGGER of_v AFTER UPDATE OF v ON guarded FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER of_id AFTER UPDATE OF id ON guarded FOR EACH ROW EXECUTE FUNCTION log_row();
SELECT apply('SAVE', 'guarded', '{"id":1,"v":"no","cqrs_revision":0}');
SELECT apply('SAVE', 'guarded', '{"id":1,"v":"yes","cqrs_revision":0}');
SELECT apply('SAVE', 'guarded', '{"id":1,"v":"no","cqrs_revision":1}');
SELECT apply('SAVE', 'guarded', '{"id":1,"v":"again","cqrs_revision":1}');
SELECT id, v, w, cqrs_revision FROM guarded;
SELECT * FROM log;
-- A trigger that applies a message to the same table, within the first one.
CREATE FUNCTION cascade() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id < 12 THEN
		INSERT INTO public.log VALUES (public.cqrs_apply(ROW('SAVE', 'guarded', format('{"id":%s,"v":"inner","cqrs_revision":0,"cqrs_updated":"2026-11-23T00:00:00Z"}', NEW.id + 1),
			NULL, '1', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message));
		BEGIN
			PERFORM public.cqrs_apply(ROW('SAVE', 'guarded', '{"id":"x","v":"inner","cqrs_revision":0,"cqrs_updated":"2026-11-23T00:00:00Z"}',
				NULL, '1', NULL, 0, NULL, NULL, NULL, NULL)::cqrs.message);
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO public.log VALUES (SQLERRM || ', within ' || (public.cqrs_current_message()).instance_data);
		END;
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER cascade BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION cascade();
TRUNCATE log;
SELECT apply('SAVE', 'guarded', '{"id":10,"v":"outer","cqrs_revision":0}');
SELECT id, v, w FROM guarded ORDER BY id;
SELECT * FROM log;

-- Constraints: foreign keys, immediate and deferred, unique, check, exclusion.
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES guarded DEFERRABLE INITIALLY DEFERRED, strict int REFERENCES guarded,
	u int UNIQUE, c int CHECK (c > 0), r int4range, EXCLUDE USING gist (r WITH &&), cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('child');
SELECT apply('SAVE', 'child', '{"id":1,"parent":1,"strict":1,"u":1,"c":1,"r":"[1,5)","cqrs_revision":0}');
SELECT apply('SAVE', 'child', '{"id":2,"strict":99,"cqrs_revision":0}');
SELECT apply('SAVE', 'child', '{"id":2,"u":1,"cqrs_revision":0}');
SELECT apply('SAVE', 'child', '{"id":2,"c":0,"cqrs_revision":0}');
SELECT apply('SAVE', 'child', '{"id":2,"r":"[4,6)","cqrs_revision":0}');
SELECT apply('SAVE', 'child', '{"id":2,"cqrs_revision":null}');
SELECT apply('DELETE', 'guarded', '{"id":1,"cqrs_revision":0}');
BEGIN;
SELECT apply('SAVE', 'child', '{"id":2,"parent":20,"cqrs_revision":0}');
SELECT apply('SAVE', 'guarded', '{"id":20,"v":"parent comes later","cqrs_revision":0}');
SET CONSTRAINTS ALL IMMEDIATE;
COMMIT;
BEGIN;
SELECT apply('SAVE', 'child', '{"id":3,"parent":30,"cqrs_revision":0}');
COMMIT;
SELECT id, parent FROM child ORDER BY id;

-- Domains: null, and defaults.
CREATE DOMAIN filled AS text NOT NULL;
CREATE DOMAIN given AS text NOT NULL DEFAULT 'given';
CREATE TABLE domains (id int PRIMARY KEY, f filled, g given, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('domains');
SELECT apply('SAVE', 'domains', '{"id":1,"cqrs_revision":0}');
SELECT apply('SAVE', 'domains', '{"id":1,"f":null,"cqrs_revision":0}');
SELECT apply('SAVE', 'domains', '{"id":1,"f":"x","cqrs_revision":0}');
SELECT apply('SAVE', 'domains', '{"id":1,"g":null,"cqrs_revision":1}');
SELECT id, f, g FROM domains;

-- soft_delete: a DELETE marks the row, a SAVE of any revision brings it back.
CREATE TABLE soft (id int PRIMARY KEY, v text, deleted boolean NOT NULL, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
CREATE TABLE soft_at (id int PRIMARY KEY, v text, deleted_at timestamptz DEFAULT now(), cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('soft', soft_delete => 'deleted');
SELECT cqrs_register_replica('soft_at', soft_delete => 'deleted_at');
CREATE FUNCTION soft(signal text, rev int, v text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT apply(signal, 'soft', format('{"id":1,"v":"%s","cqrs_revision":%s,"deleted":true}', v, rev));
	RETURN NEXT (SELECT s FROM (SELECT t.id, t.v, t.deleted, t.cqrs_revision FROM soft t) s);
	RETURN NEXT apply(signal, 'soft_at', format('{"id":1,"v":"%s","cqrs_revision":%s}', v, rev));
	RETURN NEXT (SELECT s FROM (SELECT t.id, t.v, t.deleted_at = now() AS now, t.cqrs_revision FROM soft_at t) s);
END
$$;
SELECT soft('SAVE', 5, 'new');
SELECT soft('SAVE', 4, 'outdated');
SELECT soft('DELETE', 6, '');
SELECT soft('DELETE', 7, 'deleted already');
SELECT soft('SAVE', 0, 'again');
SELECT soft('SAVE', 0, 'duplicate');
SELECT soft('DELETE', 1, '');
SELECT soft('SYNC', 3, 'synced');

-- Row-level security does not apply to the owner; forced, it is refused.
CREATE ROLE apply_owner;
GRANT USAGE ON SCHEMA public TO apply_owner;
CREATE TABLE secured (id int PRIMARY KEY, v text, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
ALTER TABLE secured OWNER TO apply_owner;
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
SELECT cqrs_register_replica('secured');
SET ROLE apply_owner;
SELECT apply('SAVE', 'secured', '{"id":1,"v":"new","cqrs_revision":0}');
SELECT apply('SAVE', 'secured', '{"id":1,"v":"changed","cqrs_revision":1}');
SELECT id, v FROM secured;
RESET ROLE;
SELECT cqrs_unregister_replica('secured');
DROP TABLE secured;

-- Deferred triggers of a message run when its transaction commits.
CREATE TABLE deferred (id int PRIMARY KEY, cqrs_revision int NOT NULL, cqrs_updated timestamptz NOT NULL);
SELECT cqrs_register_replica('deferred');
CREATE CONSTRAINT TRIGGER d AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION log_row();
TRUNCATE log;
BEGIN;
SELECT apply('SAVE', 'deferred', '{"id":1,"cqrs_revision":0}');
SELECT * FROM log;
COMMIT;
SELECT * FROM log;

-- Triggers that fire at once have the rights of the owner; deferred ones fire at
-- the commit, with those of the user who commits, or, from version 18 on, of the
-- user who caused them.
CREATE TABLE witness (fired text, as_owner boolean);
GRANT INSERT ON witness TO apply_owner;
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.witness VALUES (TG_ARGV[0], current_user = 'apply_owner');
	RETURN NULL;
END
$$;
DROP TRIGGER d ON deferred;
CREATE TRIGGER a AFTER INSERT ON deferred FOR EACH ROW EXECUTE FUNCTION witness('at once');
CREATE CONSTRAINT TRIGGER b AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION witness('deferred');
ALTER TABLE deferred OWNER TO apply_owner;
SELECT apply('SAVE', 'deferred', '{"id":2,"cqrs_revision":0}');
SELECT fired, as_owner = (fired = 'at once' OR current_setting('server_version_num')::int >= 180000) AS right FROM witness;

SELECT count(cqrs_unregister_replica(id)) FROM unnest('{odd,two,keyed,arrays,parts,guarded,child,domains,soft,soft_at,deferred}'::text[]) id;
DROP TABLE odd, two, keyed, arrays, parts, child, guarded, domains, soft, soft_at, deferred, log, witness;
DROP FUNCTION apply, part, log_row, guard, cascade, soft, witness;
DROP DOMAIN filled, given;
REVOKE USAGE ON SCHEMA public FROM apply_owner;
DROP ROLE apply_owner;

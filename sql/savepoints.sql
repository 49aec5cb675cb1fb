-- Savepoints in every order: transactions of random changes, savepoints,
-- rollbacks to them and exceptions, with a fixed seed.  Messages are those of
-- the difference between the table before and after (I2).
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE t (id int PRIMARY KEY, v int);
SELECT cqrs_register('t', tracked_fields => '{v}');
INSERT INTO t SELECT n, n FROM generate_series(1, 5) n;
CREATE TABLE before_ AS SELECT ctid AS old_ctid, xmin AS old_xmin, t.* FROM t;
SELECT test_skip();

-- Random numbers that are the same everywhere.
CREATE SEQUENCE dice START 1;
CREATE FUNCTION roll(sides int) RETURNS int LANGUAGE sql AS $$
	SELECT ('x' || substr(md5(nextval('dice')::text), 1, 7))::bit(28)::int % sides
$$;

CREATE FUNCTION random_change() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	a int := 1 + roll(6);
	b int := 1 + roll(6);
	v int := roll(100);
BEGIN
	CASE roll(9)
		WHEN 0 THEN
			RETURN format('INSERT INTO t VALUES (%s, %s) ON CONFLICT DO NOTHING', a, v);
		WHEN 1 THEN
			RETURN format('INSERT INTO t VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v', a, v);
		WHEN 2 THEN
			RETURN format('DELETE FROM t WHERE id = %s', a);
		WHEN 3, 7 THEN
			RETURN format('UPDATE t SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM t WHERE id = %1$s)', b, a);
		WHEN 4 THEN
			RETURN format('UPDATE t SET v = %s WHERE id >= %s', v, a);
		WHEN 5 THEN
			RETURN format('DO $do$BEGIN UPDATE t SET v = %s WHERE id = %s; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN UPDATE t SET v = %1$s + 1 WHERE id = %s; END$do$', v, a, b);
		WHEN 6 THEN
			RETURN CASE WHEN v < 10 THEN 'DELETE FROM t' ELSE format('SELECT id FROM t WHERE id = %s FOR KEY SHARE', a) END;
		ELSE
			RETURN format('UPDATE t SET v = %s WHERE id = %s', v, a);
	END CASE;
END
$$;

-- A transaction; the names of savepoints are their depths.
CREATE FUNCTION random_transaction() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	depth int := 0;
	target int;
BEGIN
	RETURN NEXT 'BEGIN';
	FOR step IN 1 .. 3 + roll(12) LOOP
		CASE
			WHEN roll(10) < 3 THEN
				depth := depth + 1;
				RETURN NEXT 'SAVEPOINT s' || depth;
			WHEN depth > 0 AND roll(10) < 4 THEN
				target := 1 + roll(depth);
				IF roll(3) = 0 THEN
					RETURN NEXT 'RELEASE s' || target;
					depth := target - 1;
				ELSE
					RETURN NEXT 'ROLLBACK TO s' || target;
					depth := target;
				END IF;
			ELSE
				RETURN NEXT random_change();
		END CASE;
	END LOOP;
	RETURN NEXT CASE roll(8) WHEN 0 THEN 'ROLLBACK' ELSE 'COMMIT' END;
END
$$;

-- What the last transaction should have sent and did not, or the other way
-- round.  A row that was deleted and inserted again is DELETE and SAVE, which
-- the tables do not tell from an update; but its revision does.  DELETEs come
-- before SAVEs of the same key.
CREATE FUNCTION wrong() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY WITH sent AS (
		SELECT id AS message, signal_type, (instance_pk #>> '{}')::int AS id,
			body::jsonb -> 'instance_data' AS data,
			body::jsonb -> 'previous_data' AS previous
		FROM cqrs.outbox WHERE cqrs.outbox.id > (SELECT test_mark.id FROM test_mark)),
	saved AS (SELECT * FROM sent WHERE signal_type = 'SAVE'),
	deleted AS (SELECT * FROM sent WHERE signal_type = 'DELETE')
	SELECT format('row %s: before %s, after %s, deleted %s, saved %s, previous %s',
		id, b, a, d.data, s.data, s.previous)
	FROM before_ b FULL JOIN t a USING (id) FULL JOIN saved s USING (id)
		FULL JOIN deleted d USING (id)
	WHERE NOT CASE
		WHEN a IS NULL AND b IS NULL THEN s IS NULL AND d IS NULL
		WHEN a IS NULL THEN s IS NULL AND d IS NOT NULL
			AND (d.data ->> 'cqrs_revision')::int = b.cqrs_revision + 1
		WHEN a.ctid = b.old_ctid AND a.xmin = b.old_xmin THEN s IS NULL AND d IS NULL
		ELSE s IS NOT NULL AND (s.data ->> 'v')::int = a.v
			AND (s.data ->> 'cqrs_revision')::int = a.cqrs_revision
			AND (b IS NULL OR d IS NULL OR d.message < s.message)
			AND CASE WHEN b IS NULL OR d IS NOT NULL THEN s.previous = '{"v": null}'
				ELSE a.cqrs_revision = b.cqrs_revision + 1 AND s.previous =
					CASE WHEN a.v = b.v THEN '{}' ELSE jsonb_build_object('v', b.v) END END
		END;
	PERFORM test_skip();
	TRUNCATE before_;
	INSERT INTO before_ SELECT ctid, xmin, t.* FROM t;
END
$$;

-- Each transaction in a session of dblink's, because its savepoints and its
-- commit cannot be made by a function.
CREATE EXTENSION dblink;
SELECT dblink_connect('writer', format('host=%s port=%s dbname=%s',
	split_part(current_setting('unix_socket_directories'), ',', 1),
	current_setting('port'), current_database()));
CREATE PROCEDURE run(transactions int) LANGUAGE plpgsql AS $$
DECLARE
	commands text[];
	line text;
	messages bigint := 0;
BEGIN
	FOR n IN 1 .. transactions LOOP
		SELECT array_agg(c) INTO commands FROM random_transaction() c;
		COMMIT;
		FOREACH line IN ARRAY commands LOOP
			IF line LIKE 'SELECT%' THEN
				PERFORM FROM dblink('writer', line) AS (id int);
			ELSE
				PERFORM dblink_exec('writer', line);
			END IF;
		END LOOP;
		COMMIT;
		messages := messages + (SELECT count(*) FROM cqrs.outbox WHERE id > (SELECT id FROM test_mark));
		FOR line IN SELECT * FROM wrong() LOOP
			RAISE INFO 'transaction %: % after %', n, line, array_to_string(commands, '; ');
		END LOOP;
		COMMIT;
	END LOOP;
	RAISE INFO '% transactions, more messages than that: %', transactions, messages > transactions;
END
$$;
\set VERBOSITY terse
CALL run(200);
SELECT dblink_disconnect('writer');
DROP EXTENSION dblink;
DROP PROCEDURE run;
DROP FUNCTION wrong, random_transaction, random_change, roll;
DROP SEQUENCE dice;
DROP TABLE t, before_;

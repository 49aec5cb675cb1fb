-- What the other tests use: the extension, and functions that show messages
-- and errors without what varies.
CREATE EXTENSION cqrs;

CREATE TABLE test_mark (id bigint NOT NULL);
INSERT INTO test_mark VALUES (0);

-- JSON without cqrs_updated.
CREATE FUNCTION test_undated(data text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT regexp_replace(data,
		',"cqrs_updated":"[^"]*"|"cqrs_updated":"[^"]*",', '', 'g')
$$;

-- The messages since the last call, in their order.
CREATE FUNCTION test_messages() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	message record;
BEGIN
	FOR message IN
		SELECT o.*, body::json AS json FROM cqrs.outbox o
		WHERE o.id > (SELECT id FROM test_mark) ORDER BY o.id
	LOOP
		RETURN NEXT concat_ws(' ', message.signal_type, message.cqrs_id,
			message.instance_pk,
			test_undated(message.json ->> 'instance_data'),
			'previous ' || test_undated(message.json ->> 'previous_data'),
			'meta ' || nullif(message.json ->> 'meta', '{}'),
			'queue ' || message.queue,
			'correlation ' || message.correlation_id);
		UPDATE test_mark SET id = message.id;
	END LOOP;
END
$$;

-- Forget the messages so far: as if they had been published, which spares later
-- looks at the outbox to unpack them.
CREATE FUNCTION test_skip() RETURNS void LANGUAGE sql AS $$
	UPDATE test_mark SET id = coalesce((SELECT max(id) FROM cqrs.outbox), id);
	SELECT setval('cqrs.watermark', id) FROM test_mark;
	SELECT
$$;

-- The error that a command raises.
CREATE FUNCTION test_error(command text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	BEGIN
		EXECUTE command;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE,
			message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
			hint = PG_EXCEPTION_HINT;
		RETURN NEXT state || ' ' || message;
		IF detail <> '' THEN
			RETURN NEXT '  detail: ' || detail;
		END IF;
		IF hint <> '' THEN
			RETURN NEXT '  hint: ' || hint;
		END IF;
		RETURN;
	END;
	RETURN NEXT 'no error';
END
$$;

-- Waits until a setting that was reloaded has a value in new sessions: they
-- have it once the postmaster has.
CREATE FUNCTION test_await_setting(name text, value text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	got text;
	deadline timestamptz := clock_timestamp() + interval '60 s';
BEGIN
	LOOP
		SELECT v INTO got FROM dblink(format('host=%s port=%s dbname=%s',
			split_part(current_setting('unix_socket_directories'), ',', 1),
			current_setting('port'), current_database()), 'SHOW ' || name) AS (v text);
		EXIT WHEN got = value;
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION '% is "%" instead of "%" after a minute', name, got, value;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;

SELECT * FROM test_messages();

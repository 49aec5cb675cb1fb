/* sql/cqrs--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cqrs" to load this file. \quit

--
-- Schema
--
-- cqrs holds what is internal or to look at.  The functions that users call
-- are in the schema that CREATE EXTENSION chose.
--

CREATE SCHEMA cqrs;
COMMENT ON SCHEMA cqrs IS 'CQRS masters: definitions, outbox and statistics';
GRANT USAGE ON SCHEMA cqrs TO PUBLIC;

--
-- Masters
--
--		cqrs_id			name of the master in messages
--		relation		its table
--		fields			published columns, NULL for all
--		tracked_fields	columns whose previous values are sent, {*} for all
--		field_map		keys of columns where they differ from their names
--		meta			function that gives the meta object
--		produce			whether messages are sent
--
-- Names of columns and functions, not their numbers, so that a dump restores.
-- Written by cqrs_register(), cqrs_alter() and cqrs_unregister() only.
--

CREATE TABLE cqrs.master (
	cqrs_id text COLLATE "C" NOT NULL CONSTRAINT master_pkey PRIMARY KEY,
	relation regclass NOT NULL,
	fields text[],
	tracked_fields text[],
	field_map jsonb,
	meta text,
	produce boolean NOT NULL
);
CREATE INDEX master_relation_idx ON cqrs.master (relation);
COMMENT ON TABLE cqrs.master IS 'registered masters; changed by cqrs_register, cqrs_alter and cqrs_unregister';
GRANT SELECT ON cqrs.master TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('cqrs.master', '');

--
-- Outbox
--
--		id				batch * 100000 + position; a transaction draws a batch
--						when it commits
--		committed_at	time of the commit
--		signal_type		S: SAVE, D: DELETE, Y: SYNC
--		cqrs_id			the master
--		instance_pk		primary key, JSON
--		instance_data	JSON
--		previous_data	JSON, NULL for null
--		meta			JSON, NULL for {}
--		queue			of a SYNC to one queue
--		correlation_id
--		exchange		NULL for cqrs.exchange
--		routing_key		NULL for the usual one
--		message_ttl		in seconds, 0 for none, NULL for cqrs.message_ttl
--
-- Rows are only inserted, and a segment is emptied as a whole.  So there is
-- nothing for autovacuum to do.
--

CREATE TABLE cqrs.segment_0 (
	id bigint NOT NULL,
	committed_at timestamptz NOT NULL,
	signal_type "char" NOT NULL,
	cqrs_id text NOT NULL,
	instance_pk text NOT NULL,
	instance_data text NOT NULL,
	previous_data text,
	meta text,
	queue text,
	correlation_id text,
	exchange text,
	routing_key text,
	message_ttl integer
) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE cqrs.segment_1 (LIKE cqrs.segment_0)
	WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE cqrs.segment_2 (LIKE cqrs.segment_0)
	WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX segment_0_id_idx ON cqrs.segment_0 (id);
CREATE INDEX segment_1_id_idx ON cqrs.segment_1 (id);
CREATE INDEX segment_2_id_idx ON cqrs.segment_2 (id);
COMMENT ON TABLE cqrs.segment_0 IS 'segment of the outbox; look at cqrs.outbox instead';
COMMENT ON TABLE cqrs.segment_1 IS 'segment of the outbox; look at cqrs.outbox instead';
COMMENT ON TABLE cqrs.segment_2 IS 'segment of the outbox; look at cqrs.outbox instead';

CREATE FUNCTION cqrs.trigger_discard() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_discard' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_discard() IS 'keeps rows that logical replication brings out of the outbox';
CREATE TRIGGER discard BEFORE INSERT ON cqrs.segment_0
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard();
CREATE TRIGGER discard BEFORE INSERT ON cqrs.segment_1
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard();
CREATE TRIGGER discard BEFORE INSERT ON cqrs.segment_2
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard();
ALTER TABLE cqrs.segment_0 ENABLE REPLICA TRIGGER discard;
ALTER TABLE cqrs.segment_1 ENABLE REPLICA TRIGGER discard;
ALTER TABLE cqrs.segment_2 ENABLE REPLICA TRIGGER discard;

-- Every id up to the watermark is published or was rolled back.
CREATE SEQUENCE cqrs.watermark MINVALUE 0 START 0;
SELECT pg_catalog.setval('cqrs.watermark', 0);
COMMENT ON SEQUENCE cqrs.watermark IS 'highest id below which nothing is pending';
GRANT SELECT ON SEQUENCE cqrs.watermark TO PUBLIC;

CREATE FUNCTION cqrs.current_watermark() RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_sql_watermark' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION cqrs.current_watermark() IS 'highest id below which nothing is pending';

CREATE FUNCTION cqrs.message_body(signal_type "char", cqrs_id text,
		instance_pk text, instance_data text, previous_data text, meta text,
		correlation_id text, message_ttl integer)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cqrs_sql_message_body' LANGUAGE C STABLE;
COMMENT ON FUNCTION cqrs.message_body("char", text, text, text, text, text, text, integer) IS 'body of a message, as it would be published now';

CREATE VIEW cqrs.outbox AS
	SELECT s.id, s.cqrs_id,
		CASE s.signal_type WHEN 'S' THEN 'SAVE' WHEN 'D' THEN 'DELETE'
			WHEN 'Y' THEN 'SYNC' END AS signal_type,
		s.instance_pk::pg_catalog.jsonb AS instance_pk, s.queue,
		s.correlation_id, s.committed_at,
		cqrs.message_body(s.signal_type, s.cqrs_id, s.instance_pk,
			s.instance_data, s.previous_data, s.meta, s.correlation_id,
			s.message_ttl) AS body
	FROM (SELECT * FROM cqrs.segment_0
		UNION ALL SELECT * FROM cqrs.segment_1
		UNION ALL SELECT * FROM cqrs.segment_2) s
	WHERE s.id > cqrs.current_watermark();
COMMENT ON VIEW cqrs.outbox IS 'messages that are not known to be confirmed yet';

--
-- Parked messages: those that could not be made, because a function failed,
-- or that the broker has refused for themselves.
--
--		id				as in the outbox
--		parked_at
--		reason			hook: a function failed; refused: by the broker
--		error			in words
--		committed_at ... message_ttl	as in the outbox; data, previous_data
--						and meta only where the message was made
--		row_data		of a DELETE that could not be made: the row
--

CREATE TABLE cqrs.parked (
	id bigint NOT NULL CONSTRAINT parked_pkey PRIMARY KEY,
	parked_at timestamptz NOT NULL,
	reason text NOT NULL,
	error text NOT NULL,
	committed_at timestamptz NOT NULL,
	signal_type "char" NOT NULL,
	cqrs_id text NOT NULL,
	instance_pk text NOT NULL,
	instance_data text,
	previous_data text,
	meta text,
	queue text,
	correlation_id text,
	exchange text,
	routing_key text,
	message_ttl integer,
	row_data text
);
COMMENT ON TABLE cqrs.parked IS 'messages that could not be made or were refused by the broker; sent again by cqrs_retry_parked';

--
-- Publisher
--

-- One row.  The identity distinguishes copies of a database; it is part of
-- message ids and of the name of the lease at the broker.
CREATE TABLE cqrs.publisher (
	paused boolean NOT NULL,
	identity text
);
INSERT INTO cqrs.publisher VALUES (false);
COMMENT ON TABLE cqrs.publisher IS 'state of publishing; changed by cqrs_pause, cqrs_resume and cqrs_adopt';

CREATE FUNCTION cqrs.wake_publisher() RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_sql_wake_publisher' LANGUAGE C STRICT;
COMMENT ON FUNCTION cqrs.wake_publisher() IS 'has the publisher started, or look at its settings, after the commit';
REVOKE ALL ON FUNCTION cqrs.wake_publisher() FROM PUBLIC;

CREATE FUNCTION cqrs.publisher_stats(OUT pid integer, OUT state text,
		OUT started_at timestamptz, OUT connected_at timestamptz,
		OUT connects bigint, OUT reconnects bigint, OUT published bigint,
		OUT confirmed bigint, OUT returned bigint, OUT nacked bigint,
		OUT held bigint, OUT errors bigint, OUT last_error text, OUT last_error_at timestamptz,
		OUT stats_since timestamptz)
	AS 'MODULE_PATHNAME', 'cqrs_sql_publisher_stats' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION cqrs.publisher_stats() IS 'what the publisher of this database has done; see cqrs.stats';
REVOKE ALL ON FUNCTION cqrs.publisher_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs.publisher_stats() TO pg_monitor;

CREATE VIEW cqrs.stats AS
	SELECT pg_catalog.current_database() AS datname, p.pid, p.state,
		p.started_at, p.connected_at, p.connects, p.reconnects, p.published,
		p.confirmed, p.returned, p.nacked, o.pending,
		pg_catalog.clock_timestamp() - o.oldest AS oldest_pending_age,
		p.held, k.parked, p.errors, p.last_error, p.last_error_at, p.stats_since
	FROM cqrs.publisher_stats() p,
		(SELECT count(*) AS pending, min(s.committed_at) AS oldest
		 FROM (SELECT id, committed_at FROM cqrs.segment_0
			UNION ALL SELECT id, committed_at FROM cqrs.segment_1
			UNION ALL SELECT id, committed_at FROM cqrs.segment_2) s
		 WHERE s.id > cqrs.current_watermark()) o,
		(SELECT count(*) AS parked FROM cqrs.parked) k;
COMMENT ON VIEW cqrs.stats IS 'state, counters and backlog of the publisher of this database';
GRANT SELECT ON cqrs.stats TO pg_monitor;

CREATE FUNCTION @extschema@.cqrs_pause() RETURNS void
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$UPDATE cqrs.publisher SET paused = true; SELECT cqrs.wake_publisher()$$;
COMMENT ON FUNCTION @extschema@.cqrs_pause() IS 'stops publishing in this database; messages wait in the outbox';
REVOKE ALL ON FUNCTION @extschema@.cqrs_pause() FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_resume() RETURNS void
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$UPDATE cqrs.publisher SET paused = false; SELECT cqrs.wake_publisher()$$;
COMMENT ON FUNCTION @extschema@.cqrs_resume() IS 'starts publishing again after cqrs_pause';
REVOKE ALL ON FUNCTION @extschema@.cqrs_resume() FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_adopt() RETURNS text
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	UPDATE cqrs.publisher
		SET identity = substr(md5(gen_random_uuid()::text), 1, 12);
	SELECT cqrs.wake_publisher();
	SELECT identity FROM cqrs.publisher$$;
COMMENT ON FUNCTION @extschema@.cqrs_adopt() IS 'gives a copy of a database an identity of its own, so that it publishes beside the original';
REVOKE ALL ON FUNCTION @extschema@.cqrs_adopt() FROM PUBLIC;

--
-- Capture
--

CREATE FUNCTION cqrs.trigger_update() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_update' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_update() IS 'trigger of masters: bumps cqrs_revision and cqrs_updated, notes the row';
CREATE FUNCTION cqrs.trigger_insert_delete() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_insert_delete' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_insert_delete() IS 'trigger of masters: notes the row';
CREATE FUNCTION cqrs.trigger_truncate() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_truncate' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_truncate() IS 'trigger of masters: a DELETE for each row that TRUNCATE removes';

-- A master goes with its table.
CREATE FUNCTION cqrs.forget_dropped() RETURNS event_trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	DELETE FROM cqrs.master m
		USING pg_event_trigger_dropped_objects() d
		WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
			AND d.objid = m.relation;
END
$$;
COMMENT ON FUNCTION cqrs.forget_dropped() IS 'event trigger: removes the masters of dropped tables';
CREATE EVENT TRIGGER cqrs_forget_dropped ON sql_drop
	EXECUTE FUNCTION cqrs.forget_dropped();

--
-- Functions for users
--

CREATE FUNCTION @extschema@.cqrs_register(relation regclass,
		cqrs_id text DEFAULT NULL, fields text[] DEFAULT NULL,
		tracked_fields text[] DEFAULT NULL, field_map jsonb DEFAULT NULL,
		meta regproc DEFAULT NULL, produce boolean DEFAULT true)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cqrs_register' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_register(regclass, text, text[], text[], jsonb, regproc, boolean) IS 'makes a table a master, whose changes are published';

CREATE FUNCTION @extschema@.cqrs_unregister(cqrs_id text) RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_unregister' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_unregister(text) IS 'ends a master; the table and its columns stay';

CREATE FUNCTION @extschema@.cqrs_alter(cqrs_id text, options jsonb) RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_alter' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_alter(text, jsonb) IS 'changes options of a master';

CREATE FUNCTION @extschema@.cqrs_sync(cqrs_id text, filter text DEFAULT NULL,
		queue text DEFAULT NULL)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_sync_filter' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_sync(text, text, text) IS 'sends the rows of a master that match a filter again, as they are';

CREATE FUNCTION @extschema@.cqrs_sync("row" record, queue text DEFAULT NULL)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'cqrs_sync_row' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_sync(record, text) IS 'sends a row of a master again, as it is';

CREATE FUNCTION @extschema@.cqrs_bulk_dump(cqrs_id text) RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'cqrs_bulk_dump' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_bulk_dump(text) IS 'the rows of a master as the lines that django-cqrs''s cqrs_bulk_load reads';

SELECT cqrs.wake_publisher();

/* sql/cqrs--1.0.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cqrs" to load this file. \quit

-- CREATE EXTENSION has put the target schema into search_path.  A function or
-- operator in that schema could match the types of a call better than
-- PostgreSQL's own, get into a view or function below, and run with the
-- privileges of its users.  So until the end of the script only PostgreSQL's
-- own objects are found by their bare names; all others are written with their
-- schema.
SET LOCAL search_path TO pg_catalog, pg_temp;

--
-- Schema
--
-- The schema cqrs has the internal objects, and the views and tables that
-- users read.  The functions that users call are in the schema that CREATE
-- EXTENSION chose.
--

CREATE SCHEMA cqrs;
COMMENT ON SCHEMA cqrs IS 'objects of the extension cqrs: masters, outbox and statistics';
GRANT USAGE ON SCHEMA cqrs TO PUBLIC;

-- Masters, replicas and messages are a server's own: a subscriber of all tables
-- keeps what it has of them.  Ids of its publisher would collide with its own,
-- and a master is nothing without its columns and triggers.
CREATE FUNCTION cqrs.trigger_discard() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_discard' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_discard() IS 'trigger of tables whose rows belong to one server: discards changes by logical replication; with an argument, changes by any session with session_replication_role = replica';
REVOKE ALL ON FUNCTION cqrs.trigger_discard() FROM PUBLIC;

--
-- Masters
--
--		cqrs_id			name of the master in messages
--		relation		table of the master
--		fields			published columns; NULL: all
--		tracked_fields	columns whose previous values are sent; {*}: all
--		field_map		keys of the columns whose key is not their name
--		meta			function that returns the meta object
--		produce			whether messages are sent
--		serializer		function that returns instance_data
--		sync_when		condition; only rows that match it are published
--		delete_data		function that returns the custom data of a DELETE
--		leave			what to send when a row stops matching sync_when:
--						ignore (nothing), delete (a DELETE)
--		on_error		what to do when a function fails: fail, park
--		skip_unchanged	whether updates that change no field send nothing
--		message_ttl		in seconds; 0: none; NULL: cqrs.message_ttl
--		exchange		NULL: cqrs.exchange
--		routing_key		NULL: cqrs_id
--		on_truncate		what TRUNCATE does: delete, refuse, ignore
--		replication		which changes to publish: origin, replica, always
--
-- Columns and functions are stored by name, not by number, so that a dump can
-- be restored.  Only cqrs_register(), cqrs_alter() and cqrs_unregister() write
-- to the table.
--

CREATE TABLE cqrs.master (
	cqrs_id text COLLATE "C" NOT NULL CONSTRAINT master_pkey PRIMARY KEY,
	relation regclass NOT NULL,
	fields text[],
	tracked_fields text[],
	field_map jsonb,
	meta text,
	produce boolean NOT NULL,
	serializer text,
	sync_when text,
	delete_data text,
	leave text NOT NULL DEFAULT 'ignore',
	on_error text NOT NULL DEFAULT 'fail',
	skip_unchanged boolean NOT NULL DEFAULT false,
	message_ttl integer,
	exchange text,
	routing_key text,
	on_truncate text NOT NULL DEFAULT 'delete',
	replication text NOT NULL DEFAULT 'origin'
);
CREATE INDEX master_relation_idx ON cqrs.master (relation);
COMMENT ON TABLE cqrs.master IS 'registered masters; use cqrs_register, cqrs_alter and cqrs_unregister to change them';
GRANT SELECT ON cqrs.master TO PUBLIC;
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.master
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard();
ALTER TABLE cqrs.master ENABLE REPLICA TRIGGER discard;
SELECT pg_catalog.pg_extension_config_dump('cqrs.master', '');

--
-- Outbox
--
--		id				id of the row's first message: batch * 100000 +
--						position; a transaction draws a batch when it commits
--		last_id			id of the row's last message; ids are consecutive
--		committed_at	time of the commit
--		messages		the packed messages, for cqrs.unpack()
--
-- Rows are only inserted, and a segment is truncated as a whole, so autovacuum
-- has nothing to do.  A row that fits into a page is not moved to TOAST.
--

CREATE TABLE cqrs.segment_0 (
	id bigint NOT NULL,
	last_id bigint NOT NULL,
	committed_at timestamptz NOT NULL,
	messages bytea NOT NULL
) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE TABLE cqrs.segment_1 (LIKE cqrs.segment_0)
	WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE TABLE cqrs.segment_2 (LIKE cqrs.segment_0)
	WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX segment_0_id_idx ON cqrs.segment_0 (id);
CREATE INDEX segment_1_id_idx ON cqrs.segment_1 (id);
CREATE INDEX segment_2_id_idx ON cqrs.segment_2 (id);
COMMENT ON TABLE cqrs.segment_0 IS 'segment of the outbox; use the view cqrs.outbox to read it';
COMMENT ON TABLE cqrs.segment_1 IS 'segment of the outbox; use the view cqrs.outbox to read it';
COMMENT ON TABLE cqrs.segment_2 IS 'segment of the outbox; use the view cqrs.outbox to read it';

CREATE TRIGGER discard BEFORE INSERT ON cqrs.segment_0
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
CREATE TRIGGER discard BEFORE INSERT ON cqrs.segment_1
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
CREATE TRIGGER discard BEFORE INSERT ON cqrs.segment_2
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
ALTER TABLE cqrs.segment_0 ENABLE REPLICA TRIGGER discard;
ALTER TABLE cqrs.segment_1 ENABLE REPLICA TRIGGER discard;
ALTER TABLE cqrs.segment_2 ENABLE REPLICA TRIGGER discard;

-- Every message up to this id is confirmed or was rolled back.
CREATE SEQUENCE cqrs.watermark MINVALUE 0 START 0;
SELECT pg_catalog.setval('cqrs.watermark', 0);
COMMENT ON SEQUENCE cqrs.watermark IS 'watermark as last saved: all messages up to this id are confirmed';
GRANT SELECT ON SEQUENCE cqrs.watermark TO PUBLIC;

CREATE FUNCTION cqrs.current_watermark() RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_sql_watermark' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION cqrs.current_watermark() IS 'current watermark: all messages up to this id are confirmed';

CREATE FUNCTION cqrs.unpack(first_id bigint, messages bytea, OUT id bigint,
		OUT signal_type text, OUT cqrs_id text, OUT instance_pk text,
		OUT queue text, OUT correlation_id text, OUT exchange text,
		OUT routing_key text, OUT message_ttl integer, OUT body text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cqrs_sql_unpack' LANGUAGE C STABLE STRICT ROWS 10;
COMMENT ON FUNCTION cqrs.unpack(bigint, bytea) IS 'unpacks the messages of a row of a segment, with the bodies that they would have now';

-- The row that contains the watermark begins at most 199 ids below it.  The
-- condition is on id instead of last_id, because only id has an index.
CREATE VIEW cqrs.outbox AS
	SELECT m.id, m.cqrs_id, m.signal_type,
		m.instance_pk::pg_catalog.jsonb AS instance_pk, m.queue,
		m.correlation_id, s.committed_at, m.body
	FROM (SELECT * FROM cqrs.segment_0
		UNION ALL SELECT * FROM cqrs.segment_1
		UNION ALL SELECT * FROM cqrs.segment_2) s,
		cqrs.unpack(s.id, s.messages) m
	WHERE s.id > cqrs.current_watermark() - 200
		AND m.id > cqrs.current_watermark();
COMMENT ON VIEW cqrs.outbox IS 'messages that are not known to be confirmed';

--
-- Parked messages: a function failed while the message was made, the broker
-- rejected the message because of its size or content, or the master was held
-- and its messages were given up.
--
--		id				as in the outbox
--		parked_at		when the message was parked
--		reason			hook: a function failed; refused: the broker rejects
--						the message, or it cannot be sent; held: the master
--						was held
--		error			error message of the function, or reply of the broker
--		committed_at ... message_ttl	as in the outbox; instance_data,
--						previous_data and meta are NULL if the message could
--						not be made
--		row_data		old row of a DELETE that could not be made
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
COMMENT ON TABLE cqrs.parked IS 'messages that could not be made or that the broker does not accept; cqrs_retry_parked sends them again';

-- The ids of messages that were parked after their commit.  They are in the
-- outbox until the watermark has passed them, and no publisher sends them.
CREATE TABLE cqrs.skipped (
	id bigint NOT NULL CONSTRAINT skipped_pkey PRIMARY KEY
);
COMMENT ON TABLE cqrs.skipped IS 'ids of messages in the outbox that are not sent, because they were parked';
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.parked
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
ALTER TABLE cqrs.parked ENABLE REPLICA TRIGGER discard;
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.skipped
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
ALTER TABLE cqrs.skipped ENABLE REPLICA TRIGGER discard;

-- The owners of the tables of masters that are gone.  While messages of such a
-- master are pending or parked, its name is free for whoever has the privileges of
-- that owner.
CREATE TABLE cqrs.former (
	cqrs_id text COLLATE "C" NOT NULL CONSTRAINT former_pkey PRIMARY KEY,
	owner regrole NOT NULL
);
COMMENT ON TABLE cqrs.former IS 'names of former masters, and the owners of their tables, to whom pending and parked messages belong';
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.former
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
ALTER TABLE cqrs.former ENABLE REPLICA TRIGGER discard;

--
-- Publisher
--

-- The table has one row.  The identity distinguishes copies of a database.  It
-- is part of message ids and of the name of the lease queue at the broker.
-- "home" is the id of this extension in cqrs.home.
CREATE TABLE cqrs.publisher (
	paused boolean NOT NULL,
	identity text,
	home uuid NOT NULL
);
-- The table has no primary key.  Without a replica identity, its updates would
-- fail in a database with a publication FOR ALL TABLES.
ALTER TABLE cqrs.publisher REPLICA IDENTITY FULL;
INSERT INTO cqrs.publisher VALUES (false, NULL, gen_random_uuid());
CREATE TRIGGER discard BEFORE INSERT ON cqrs.publisher
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
ALTER TABLE cqrs.publisher ENABLE REPLICA TRIGGER discard;
COMMENT ON TABLE cqrs.publisher IS 'state of publishing; use cqrs_pause, cqrs_resume and cqrs_adopt to change it';

CREATE FUNCTION cqrs.wake_publisher() RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_sql_wake_publisher' LANGUAGE C STRICT;
COMMENT ON FUNCTION cqrs.wake_publisher() IS 'starts the publisher or makes it reload its state, at commit';
REVOKE ALL ON FUNCTION cqrs.wake_publisher() FROM PUBLIC;

-- Where the masters of this database were registered:
--
--		id				of the extension, as CREATE EXTENSION has drawn it; NULL:
--						rows of cqrs.master came alone
--		database		OID of the database
--
-- The first master of a database inserts the row of the database.
--
-- Dumps have the table, but not cqrs.publisher.  So a row with another id, or
-- of another database, says that masters came by a dump or from a template; and
-- then nothing is published before cqrs_resume().  pg_upgrade and physical
-- copies keep both.  The name precedes that of cqrs.master, so that a restore
-- loads this table first.
CREATE TABLE cqrs.home (
	id uuid,
	database oid NOT NULL
);
ALTER TABLE cqrs.home REPLICA IDENTITY FULL;
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.home
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard();
ALTER TABLE cqrs.home ENABLE REPLICA TRIGGER discard;
COMMENT ON TABLE cqrs.home IS 'databases in which the masters were registered; while another database is among them, nothing is published';
SELECT pg_catalog.pg_extension_config_dump('cqrs.home', '');

CREATE FUNCTION cqrs.is_copy() RETURNS boolean
	AS 'MODULE_PATHNAME', 'cqrs_sql_is_copy' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION cqrs.is_copy() IS 'returns whether publishing is held back, because masters of this database come from another database';
REVOKE ALL ON FUNCTION cqrs.is_copy() FROM PUBLIC;

-- Fires when a dump is restored: the functions of the extension write to both
-- tables without firing triggers, and logical replication writes nothing.
CREATE FUNCTION cqrs.hold_restored() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM loaded) THEN
		NULL;
	ELSIF TG_TABLE_NAME = 'master' THEN
		INSERT INTO cqrs.home SELECT NULL, 0 WHERE NOT cqrs.is_copy();
	ELSIF cqrs.is_copy() THEN
		PERFORM cqrs.wake_publisher();
		RAISE WARNING 'publishing is held back in this database'
			USING DETAIL = 'Masters were restored from a dump: messages wait in the outbox.',
				HINT = 'If this database is to publish, call cqrs_resume().';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION cqrs.hold_restored() IS 'trigger of cqrs.home and cqrs.master: holds publishing back when a dump is restored';
REVOKE ALL ON FUNCTION cqrs.hold_restored() FROM PUBLIC;
CREATE TRIGGER restored AFTER INSERT ON cqrs.home
	REFERENCING NEW TABLE AS loaded
	FOR EACH STATEMENT EXECUTE FUNCTION cqrs.hold_restored();
ALTER TABLE cqrs.home ENABLE ALWAYS TRIGGER restored;
CREATE TRIGGER restored AFTER INSERT ON cqrs.master
	REFERENCING NEW TABLE AS loaded
	FOR EACH STATEMENT EXECUTE FUNCTION cqrs.hold_restored();

-- Returns a row for each current lane, and for former lanes up to the last one
-- that has counted anything.  "lanes" is the number of current lanes.
CREATE FUNCTION cqrs.publisher_stats(OUT lane integer, OUT lanes integer,
		OUT pid integer, OUT state text,
		OUT started_at timestamptz, OUT connected_at timestamptz,
		OUT connects bigint, OUT published bigint,
		OUT confirmed bigint, OUT returned bigint, OUT nacked bigint,
		OUT held bigint, OUT unbound bigint, OUT errors bigint, OUT last_error text,
		OUT last_error_at timestamptz, OUT advice text, OUT stats_since timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cqrs_sql_publisher_stats' LANGUAGE C VOLATILE STRICT ROWS 1;
COMMENT ON FUNCTION cqrs.publisher_stats() IS 'state and counters of the publishers of this database, for cqrs.stats and cqrs.lanes';
REVOKE ALL ON FUNCTION cqrs.publisher_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs.publisher_stats() TO pg_monitor;

CREATE VIEW cqrs.lanes AS
	SELECT p.lane, p.pid, p.state, p.started_at, p.connected_at, p.connects,
		p.published, p.confirmed, p.returned, p.nacked, p.held, p.errors,
		p.last_error, p.last_error_at
	FROM cqrs.publisher_stats() p
	WHERE p.lane < p.lanes;
COMMENT ON VIEW cqrs.lanes IS 'state and counters of each publisher of this database';
GRANT SELECT ON cqrs.lanes TO pg_monitor;

CREATE VIEW cqrs.stats AS
	SELECT pg_catalog.current_database() AS datname, p.pid, p.state,
		p.started_at, p.connected_at, p.connects, p.reconnects, p.published,
		p.confirmed, p.returned, p.nacked, o.pending,
		pg_catalog.clock_timestamp() - o.oldest AS oldest_pending_age,
		p.held, k.parked, p.errors, p.last_error, p.last_error_at, p.stats_since
	FROM (SELECT min(l.pid) FILTER (WHERE l.lane = 0) AS pid,
			(array_agg(l.state ORDER BY pg_catalog.array_position(
				ARRAY['stopped', 'starting', 'unconfigured', 'restored', 'paused',
					'standing by', 'waiting', 'connecting', 'blocked', 'publishing'], l.state))
				FILTER (WHERE l.lane < l.lanes))[1] AS state,
			max(l.started_at) FILTER (WHERE l.lane < l.lanes) AS started_at,
			CASE WHEN count(l.connected_at) = max(l.lanes) THEN max(l.connected_at) END AS connected_at,
			sum(l.connects)::bigint AS connects,
			sum(greatest(l.connects - 1, 0))::bigint AS reconnects,
			sum(l.published)::bigint AS published, sum(l.confirmed)::bigint AS confirmed,
			sum(l.returned)::bigint AS returned, sum(l.nacked)::bigint AS nacked,
			max(l.held) AS held, sum(l.errors)::bigint AS errors,
			(array_agg(l.last_error ORDER BY l.last_error_at DESC NULLS LAST))[1] AS last_error,
			max(l.last_error_at) AS last_error_at, max(l.stats_since) AS stats_since
		 FROM cqrs.publisher_stats() l) p,
		(SELECT coalesce(sum(s.last_id - greatest(s.id - 1, w.id)), 0)::bigint AS pending,
			min(s.committed_at) AS oldest
		 FROM (SELECT id, last_id, committed_at FROM cqrs.segment_0
			UNION ALL SELECT id, last_id, committed_at FROM cqrs.segment_1
			UNION ALL SELECT id, last_id, committed_at FROM cqrs.segment_2) s,
			cqrs.current_watermark() w(id)
		 WHERE s.id > w.id - 200 AND s.last_id > w.id) o,
		(SELECT count(*) AS parked FROM cqrs.parked) k;
COMMENT ON VIEW cqrs.stats IS 'state, counters and backlog of the publishers of this database';
GRANT SELECT ON cqrs.stats TO pg_monitor;

CREATE FUNCTION @extschema@.cqrs_pause() RETURNS void
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$UPDATE cqrs.publisher SET paused = true; SELECT cqrs.wake_publisher()$$;
COMMENT ON FUNCTION @extschema@.cqrs_pause() IS 'pauses publishing in this database; messages wait in the outbox';
REVOKE ALL ON FUNCTION @extschema@.cqrs_pause() FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_resume() RETURNS void
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$UPDATE cqrs.publisher SET paused = false;
	UPDATE cqrs.home h SET id = p.home, database = d.oid
		FROM cqrs.publisher p, pg_database d
		WHERE d.datname = current_database()
			AND (h.id, h.database) IS DISTINCT FROM (p.home, d.oid);
	SELECT cqrs.wake_publisher()$$;
COMMENT ON FUNCTION @extschema@.cqrs_resume() IS 'resumes publishing after cqrs_pause, or begins it in a database that was restored from a dump or made from a template';
REVOKE ALL ON FUNCTION @extschema@.cqrs_resume() FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_adopt() RETURNS text
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	UPDATE cqrs.publisher
		SET identity = substr(md5(gen_random_uuid()::text), 1, 12);
	SELECT cqrs.wake_publisher();
	SELECT identity FROM cqrs.publisher$$;
COMMENT ON FUNCTION @extschema@.cqrs_adopt() IS 'gives a copy of a database an identity of its own, so that both can publish';
REVOKE ALL ON FUNCTION @extschema@.cqrs_adopt() FROM PUBLIC;

--
-- Capture
--

CREATE FUNCTION cqrs.trigger_update() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_update' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_update() IS 'trigger of masters: sets cqrs_revision and cqrs_updated, and records that the row was updated';
CREATE FUNCTION cqrs.trigger_insert_delete() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_insert_delete' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_insert_delete() IS 'trigger of masters: records that the row was inserted or deleted';
CREATE FUNCTION cqrs.trigger_truncate() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_truncate' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_truncate() IS 'trigger of masters: makes a DELETE for each row that TRUNCATE removes';

-- The table stays empty.  The library queues events of its trigger, which make
-- the messages of a transaction.  The trigger fires in all values of
-- session_replication_role.
CREATE FUNCTION cqrs.trigger_at_commit() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_at_commit' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_at_commit() IS 'trigger of cqrs.at_commit: makes the messages of a transaction at commit';
REVOKE ALL ON FUNCTION cqrs.trigger_at_commit() FROM PUBLIC;
CREATE TABLE cqrs.at_commit ();
COMMENT ON TABLE cqrs.at_commit IS 'empty table whose deferred trigger makes the messages of a transaction';
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON cqrs.at_commit
	DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_at_commit();
ALTER TABLE cqrs.at_commit ENABLE ALWAYS TRIGGER at_commit;

-- Used in queries that find rows by the keys of messages.  These queries run
-- with the privileges of the caller, so everyone may call the function.
CREATE FUNCTION cqrs.key_json(value anyelement) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cqrs_sql_key_json' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION cqrs.key_json(anyelement) IS 'returns a value of a key column in the form that messages have';

-- A partition that is created or attached later gets the triggers of its root.
CREATE FUNCTION cqrs.follow_partitions(relation regclass) RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_sql_follow_partitions' LANGUAGE C STRICT;
COMMENT ON FUNCTION cqrs.follow_partitions(regclass) IS 'checks new partitions of a master and creates their triggers';
REVOKE ALL ON FUNCTION cqrs.follow_partitions(regclass) FROM PUBLIC;
CREATE FUNCTION cqrs.check_replica_partition(relation regclass) RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_sql_check_replica_partition' LANGUAGE C STRICT;
COMMENT ON FUNCTION cqrs.check_replica_partition(regclass) IS 'refuses a new partition that a replica cannot have';
REVOKE ALL ON FUNCTION cqrs.check_replica_partition(regclass) FROM PUBLIC;
CREATE FUNCTION cqrs.follow_created() RETURNS event_trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM cqrs.follow_partitions(c.objid::regclass),
			cqrs.check_replica_partition(c.objid::regclass)
		FROM pg_event_trigger_ddl_commands() c
		WHERE c.classid = 'pg_class'::regclass AND c.object_type = 'table';
END
$$;
COMMENT ON FUNCTION cqrs.follow_created() IS 'event trigger: calls cqrs.follow_partitions and cqrs.check_replica_partition for new and altered tables';
REVOKE ALL ON FUNCTION cqrs.follow_created() FROM PUBLIC;
CREATE EVENT TRIGGER cqrs_follow_created ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE')
	EXECUTE FUNCTION cqrs.follow_created();
COMMENT ON EVENT TRIGGER cqrs_follow_created IS 'creates the triggers of new partitions of masters';

-- Fires when a dump is restored.  The functions of the extension insert into
-- cqrs.master without firing triggers.
CREATE FUNCTION cqrs.trigger_loaded() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_loaded' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_loaded() IS 'trigger of cqrs.master: in a session that restores a dump, switches off publishing of the masters that the session loads';
REVOKE ALL ON FUNCTION cqrs.trigger_loaded() FROM PUBLIC;
CREATE TRIGGER loaded AFTER INSERT ON cqrs.master
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_loaded();

-- When a table is dropped, its masters and its replica are removed.
CREATE FUNCTION cqrs.forget_dropped() RETURNS event_trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	DELETE FROM cqrs.master m
		USING pg_event_trigger_dropped_objects() d
		WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
			AND d.objid = m.relation;
	DELETE FROM cqrs.replica r
		USING pg_event_trigger_dropped_objects() d
		WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
			AND d.objid = r.relation;
END
$$;
COMMENT ON FUNCTION cqrs.forget_dropped() IS 'event trigger: removes the masters and replicas of dropped tables';
REVOKE ALL ON FUNCTION cqrs.forget_dropped() FROM PUBLIC;
CREATE EVENT TRIGGER cqrs_forget_dropped ON sql_drop
	EXECUTE FUNCTION cqrs.forget_dropped();
COMMENT ON EVENT TRIGGER cqrs_forget_dropped IS 'removes the masters and replicas of dropped tables';

--
-- Replicas
--
--		cqrs_id			name of the master in messages
--		relation		table that follows it; NULL: none
--		fields			columns that messages must have; NULL: all, any of
--						which may be missing
--		field_map		keys of the columns whose key is not their name
--		handler			function that is called in place of cqrs_apply()
--		retry			function that returns the delay before the next try
--		max_retries		0: none; NULL: no limit
--		retry_delay		delay before the first retry
--		only_direct_syncs	whether SYNCs to all queues are ignored
--		on_expired		what becomes of expired messages: dead_letter, apply
--		exchange		NULL: cqrs.exchange
--		routing_key		NULL: cqrs_id
--		soft_delete		column that a DELETE sets; NULL: the row is deleted
--
-- Columns and functions are stored by name, so that a dump can be restored.
-- Only cqrs_register_replica(), cqrs_alter_replica() and
-- cqrs_unregister_replica() write to the table.
--

CREATE TABLE cqrs.replica (
	cqrs_id text COLLATE "C" NOT NULL CONSTRAINT replica_pkey PRIMARY KEY,
	relation regclass,
	fields text[],
	field_map jsonb,
	handler text,
	retry text,
	max_retries integer,
	retry_delay interval NOT NULL,
	only_direct_syncs boolean NOT NULL,
	on_expired text NOT NULL,
	exchange text,
	routing_key text,
	soft_delete text
);
CREATE UNIQUE INDEX replica_relation_idx ON cqrs.replica (relation);
COMMENT ON TABLE cqrs.replica IS 'registered replicas; use cqrs_register_replica, cqrs_alter_replica and cqrs_unregister_replica to change them';
GRANT SELECT ON cqrs.replica TO PUBLIC;
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.replica
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard();
ALTER TABLE cqrs.replica ENABLE REPLICA TRIGGER discard;
SELECT pg_catalog.pg_extension_config_dump('cqrs.replica', '');

-- Fires when a dump is restored, and when a table is dropped.  The functions
-- of the extension write to cqrs.replica without firing triggers.
CREATE FUNCTION cqrs.trigger_replica_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cqrs_trigger_replica_changed' LANGUAGE C;
COMMENT ON FUNCTION cqrs.trigger_replica_changed() IS 'trigger of cqrs.replica: makes sessions and the consumer read the replicas again';
REVOKE ALL ON FUNCTION cqrs.trigger_replica_changed() FROM PUBLIC;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON cqrs.replica
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_replica_changed();
ALTER TABLE cqrs.replica ENABLE ALWAYS TRIGGER changed;

--
-- Messages, as replicas see them
--
--		signal_type		SAVE, DELETE or SYNC
--		cqrs_id			name of the master and of the replica
--		instance_data	the row as the master sends it; of a DELETE, its key
--		previous_data	old values of tracked columns, or null
--		instance_pk		the key; of several columns, an array
--		correlation_id	what the master set, or null
--		retries			how often Python's replicas have tried it
--		expires			null: never
--		meta			what the master added, or null
--		message_id		from the broker, or null
--		direct			whether it was sent to this queue alone
--

CREATE TYPE cqrs.message AS (
	signal_type text,
	cqrs_id text,
	instance_data json,
	previous_data json,
	instance_pk json,
	correlation_id text,
	retries integer,
	expires timestamptz,
	meta json,
	message_id text,
	direct boolean
);
COMMENT ON TYPE cqrs.message IS 'a message, as replicas and their handlers see it';

-- What it reads depends on nothing but the encoding of the database.
CREATE FUNCTION cqrs.parse_message(body text) RETURNS cqrs.message
	AS 'MODULE_PATHNAME', 'cqrs_sql_parse_message'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cqrs.parse_message(text) IS 'reads the body of a message';

CREATE FUNCTION cqrs.deliver(message cqrs.message) RETURNS text
	AS 'MODULE_PATHNAME', 'cqrs_sql_deliver' LANGUAGE C STRICT;
COMMENT ON FUNCTION cqrs.deliver(cqrs.message) IS 'handles a message as the consumer does, in the current transaction; returns the outcome';
REVOKE ALL ON FUNCTION cqrs.deliver(cqrs.message) FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_apply(message cqrs.message) RETURNS text
	AS 'MODULE_PATHNAME', 'cqrs_sql_apply' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_apply(cqrs.message) IS 'applies a message to the table of its replica, without calling the handler; returns the outcome';

CREATE FUNCTION @extschema@.cqrs_current_message() RETURNS cqrs.message
	AS 'MODULE_PATHNAME', 'cqrs_sql_current_message' LANGUAGE C STABLE;
COMMENT ON FUNCTION @extschema@.cqrs_current_message() IS 'returns the message that is being applied, for triggers of the replica''s table; null if there is none';

--
-- Consumer
--

-- The table has one row while this database consumes a queue.  Functions below
-- and the consumer write to it.
--
--		queue			name of the queue
--		quorum			whether to declare it as a quorum queue
--		paused			whether consuming is paused
--		dropping		whether the queue is to be deleted, and then the row
--		epoch			raised when this database begins to consume, and after
--						it has applied messages; the low 16 bits are random.
--						NULL: cqrs_consume() was called, and whatever another
--						database has consumed does not matter
--		running			whether a consumer runs, or has ended without order
--		suspect			digest of the message that is being tried after a crash
--		timeline		of the server's WAL, when cqrs_consume() was called
--		database		OID of the database that cqrs_consume() was called in; a
--						copy by CREATE DATABASE has another one
--
-- Dumps do not have it: what they are restored into is not to consume.

CREATE TABLE cqrs.consumer (
	id integer NOT NULL DEFAULT 1 CONSTRAINT consumer_pkey PRIMARY KEY CHECK (id = 1),
	queue text COLLATE "C" NOT NULL,
	quorum boolean NOT NULL,
	paused boolean NOT NULL,
	dropping boolean NOT NULL DEFAULT false,
	epoch bigint,
	running boolean NOT NULL DEFAULT false,
	suspect bytea,
	timeline integer,
	database oid NOT NULL
);
COMMENT ON TABLE cqrs.consumer IS 'queue that this database consumes; use cqrs_consume and cqrs_stop_consuming to change it';
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.consumer
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
ALTER TABLE cqrs.consumer ENABLE REPLICA TRIGGER discard;

-- Messages that could not be applied.
--
--		id				ascends in the order of arrival
--		cqrs_id ... signal_type	as in the message; NULL where it could not be
--						read
--		body			the message as it arrived
--		message_id		of the broker's envelope, or NULL
--		direct			whether the message was sent to this queue alone
--		received_at, failed_at	when it arrived, when it last failed
--		attempts		attempts that have failed; begins at the message's
--						retries
--		next_try		when it is tried again; NULL: never, it is a dead letter
--		sqlstate, error	of the last failure

CREATE SEQUENCE cqrs.failed_id;
COMMENT ON SEQUENCE cqrs.failed_id IS 'ids of cqrs.failed';
CREATE TABLE cqrs.failed (
	id bigint NOT NULL CONSTRAINT failed_pkey PRIMARY KEY,
	cqrs_id text COLLATE "C",
	instance_pk text COLLATE "C",
	signal_type "char",
	body bytea NOT NULL,
	message_id text COLLATE "C",
	direct boolean NOT NULL,
	received_at timestamptz NOT NULL,
	failed_at timestamptz NOT NULL,
	attempts integer NOT NULL,
	next_try timestamptz,
	sqlstate text COLLATE "C",
	error text NOT NULL
);
-- Keys can be longer than a B-tree takes.
CREATE INDEX failed_instance_pk_idx ON cqrs.failed USING hash (instance_pk);
CREATE INDEX failed_next_try_idx ON cqrs.failed (next_try);
COMMENT ON TABLE cqrs.failed IS 'messages that could not be applied: messages that are tried again, and dead letters';
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.failed
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard();
ALTER TABLE cqrs.failed ENABLE REPLICA TRIGGER discard;
SELECT pg_catalog.pg_extension_config_dump('cqrs.failed', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs.failed_id', '');

CREATE VIEW cqrs.dead_letters AS
	SELECT f.id, f.cqrs_id, f.instance_pk,
		CASE f.signal_type WHEN 'S' THEN 'SAVE' WHEN 'D' THEN 'DELETE' WHEN 'Y' THEN 'SYNC' END AS signal_type,
		f.body, f.message_id, f.direct, f.received_at, f.failed_at, f.attempts,
		f.sqlstate, f.error
	FROM cqrs.failed f WHERE f.next_try IS NULL;
COMMENT ON VIEW cqrs.dead_letters IS 'failed messages that are not tried again, except by cqrs_retry_failed';

-- Messages of replicas with a handler that were handled or stored as failed, so
-- that each is handled once.  The consumer writes to one of the tables, and
-- empties the other one when a day has passed.
--
--		digest			of the message, 128 bits
--		current			table that is written to: 0 or 1
--		since			when that began
--
-- Rows are only inserted, and a table is truncated as a whole, so autovacuum has
-- nothing to do.  Dumps do not have the tables.

CREATE TABLE cqrs.handled_0 (
	digest uuid NOT NULL
) WITH (autovacuum_enabled = off);
CREATE TABLE cqrs.handled_1 (LIKE cqrs.handled_0) WITH (autovacuum_enabled = off);
CREATE INDEX handled_0_digest_idx ON cqrs.handled_0 (digest);
CREATE INDEX handled_1_digest_idx ON cqrs.handled_1 (digest);
COMMENT ON TABLE cqrs.handled_0 IS 'digests of messages that were handled or stored as failed; see cqrs.handled_turn';
COMMENT ON TABLE cqrs.handled_1 IS 'digests of messages that were handled or stored as failed; see cqrs.handled_turn';
CREATE TRIGGER discard BEFORE INSERT ON cqrs.handled_0
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
CREATE TRIGGER discard BEFORE INSERT ON cqrs.handled_1
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
ALTER TABLE cqrs.handled_0 ENABLE REPLICA TRIGGER discard;
ALTER TABLE cqrs.handled_1 ENABLE REPLICA TRIGGER discard;

-- The table has one row.  It has no primary key: see cqrs.publisher.
CREATE TABLE cqrs.handled_turn (
	current integer NOT NULL,
	since timestamptz NOT NULL
);
ALTER TABLE cqrs.handled_turn REPLICA IDENTITY FULL;
INSERT INTO cqrs.handled_turn VALUES (0, pg_catalog.now());
CREATE TRIGGER discard BEFORE INSERT OR UPDATE OR DELETE ON cqrs.handled_turn
	FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_discard('replica');
ALTER TABLE cqrs.handled_turn ENABLE REPLICA TRIGGER discard;
COMMENT ON TABLE cqrs.handled_turn IS 'which of cqrs.handled_0 and cqrs.handled_1 is written to, and since when';

CREATE FUNCTION cqrs.wake_consumer() RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_sql_wake_consumer' LANGUAGE C STRICT;
COMMENT ON FUNCTION cqrs.wake_consumer() IS 'starts the consumer or makes it reload its state, at commit';
REVOKE ALL ON FUNCTION cqrs.wake_consumer() FROM PUBLIC;

CREATE FUNCTION cqrs.consumer_process(OUT lane integer, OUT lanes integer,
		OUT pid integer, OUT state text,
		OUT started_at timestamptz, OUT connected_at timestamptz,
		OUT connects bigint, OUT prefetch bigint, OUT buffered bigint,
		OUT received bigint, OUT redelivered bigint, OUT delivery_count bigint,
		OUT batches bigint, OUT inserted bigint, OUT updated bigint,
		OUT deleted bigint, OUT duplicates bigint, OUT outdated bigint,
		OUT absent bigint, OUT ignored bigint, OUT handled bigint,
		OUT repeated bigint, OUT unknown bigint, OUT gaps bigint,
		OUT downgrades bigint, OUT unknown_keys bigint, OUT failures bigint,
		OUT retried bigint, OUT dead_letters bigint, OUT errors bigint,
		OUT last_error text, OUT last_error_at timestamptz,
		OUT stats_since timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cqrs_sql_consumer_process' LANGUAGE C VOLATILE STRICT ROWS 1;
COMMENT ON FUNCTION cqrs.consumer_process() IS 'state and counters of the consumer of this database, for cqrs.consumer_stats';
REVOKE ALL ON FUNCTION cqrs.consumer_process() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs.consumer_process() TO pg_monitor;

CREATE VIEW cqrs.consumer_stats AS
	SELECT pg_catalog.current_database() AS datname, c.queue, p.pid, p.state,
		p.started_at, p.connected_at, p.connects, p.prefetch, p.buffered,
		p.received, p.redelivered, p.delivery_count, p.batches, p.inserted,
		p.updated, p.deleted, p.duplicates, p.outdated, p.absent, p.ignored,
		p.handled, p.repeated, p.unknown, p.gaps, p.downgrades, p.unknown_keys,
		p.failures, p.retried, p.dead_letters, f.waiting, f.dead,
		pg_catalog.clock_timestamp() - f.oldest AS oldest_waiting_age,
		p.errors, p.last_error, p.last_error_at, p.stats_since
	FROM cqrs.consumer_process() p LEFT JOIN cqrs.consumer c ON true,
		(SELECT count(x.next_try) AS waiting,
			count(*) FILTER (WHERE x.next_try IS NULL) AS dead,
			min(x.received_at) FILTER (WHERE x.next_try IS NOT NULL) AS oldest
		 FROM cqrs.failed x) f;
COMMENT ON VIEW cqrs.consumer_stats IS 'state and counters of the consumer of this database';
GRANT SELECT ON cqrs.consumer_stats TO pg_monitor;

CREATE VIEW cqrs.replica_stats AS
	SELECT r.cqrs_id, r.relation, count(f.next_try) AS waiting,
		count(f.id) FILTER (WHERE f.next_try IS NULL) AS dead_letters,
		min(f.received_at) AS oldest, max(f.failed_at) AS last_failed_at
	FROM cqrs.replica r LEFT JOIN cqrs.failed f ON f.cqrs_id = r.cqrs_id
	GROUP BY r.cqrs_id, r.relation;
COMMENT ON VIEW cqrs.replica_stats IS 'replicas of this database and their messages that could not be applied';
GRANT SELECT ON cqrs.replica_stats TO pg_monitor;

CREATE FUNCTION @extschema@.cqrs_consume(queue text, quorum boolean DEFAULT false,
		paused boolean DEFAULT false)
	RETURNS void
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	current text;
BEGIN
	IF cqrs_consume.queue IS NULL OR cqrs_consume.quorum IS NULL OR cqrs_consume.paused IS NULL THEN
		RAISE EXCEPTION 'arguments of cqrs_consume() must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	END IF;
	IF cqrs_consume.queue = '' OR cqrs_consume.queue LIKE 'amq.%'
			OR octet_length(convert_to(cqrs_consume.queue, 'UTF8')) > 200 THEN
		RAISE EXCEPTION 'invalid name of a queue: "%"', cqrs_consume.queue
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'The name of a queue has 1 to 200 bytes and does not begin with "amq.".';
	END IF;
	LOCK TABLE cqrs.consumer IN SHARE ROW EXCLUSIVE MODE;
	SELECT c.queue INTO current FROM cqrs.consumer c;
	IF current <> cqrs_consume.queue THEN
		RAISE EXCEPTION 'this database consumes the queue "%" already', current
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'A database consumes one queue, which all its replicas share.',
				HINT = 'To consume another queue, call cqrs_stop_consuming() first.';
	END IF;
	INSERT INTO cqrs.consumer (queue, quorum, paused, database)
		SELECT cqrs_consume.queue, cqrs_consume.quorum, cqrs_consume.paused, d.oid
			FROM pg_database d WHERE d.datname = current_database()
		ON CONFLICT (id) DO UPDATE SET quorum = excluded.quorum,
			paused = excluded.paused, dropping = false, epoch = NULL, timeline = NULL,
			database = excluded.database;
	PERFORM cqrs.wake_consumer();
END
$$;
COMMENT ON FUNCTION @extschema@.cqrs_consume(text, boolean, boolean) IS 'makes this database consume a queue and apply the messages to the replicas';
REVOKE ALL ON FUNCTION @extschema@.cqrs_consume(text, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_stop_consuming(drop_queue boolean DEFAULT false)
	RETURNS void
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	LOCK TABLE cqrs.consumer IN SHARE ROW EXCLUSIVE MODE;
	IF drop_queue AND EXISTS (SELECT FROM cqrs.consumer c JOIN pg_database d ON d.oid <> c.database
			WHERE d.datname = current_database()) THEN
		RAISE EXCEPTION 'the queue belongs to another database'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'This database was created from the other database as its template.',
				HINT = 'To keep the queue, call cqrs_stop_consuming(). To take the queue over, call cqrs_consume().';
	ELSIF drop_queue THEN
		UPDATE cqrs.consumer SET dropping = true;
	ELSE
		DELETE FROM cqrs.consumer;
	END IF;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'this database consumes no queue'
			USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	PERFORM cqrs.wake_consumer();
END
$$;
COMMENT ON FUNCTION @extschema@.cqrs_stop_consuming(boolean) IS 'ends consuming; the queue stays, unless drop_queue is true';
REVOKE ALL ON FUNCTION @extschema@.cqrs_stop_consuming(boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_pause_consumer() RETURNS void
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$LOCK TABLE cqrs.consumer IN SHARE ROW EXCLUSIVE MODE;
	UPDATE cqrs.consumer SET paused = true; SELECT cqrs.wake_consumer()$$;
COMMENT ON FUNCTION @extschema@.cqrs_pause_consumer() IS 'pauses consuming in this database; messages wait in the queue';
REVOKE ALL ON FUNCTION @extschema@.cqrs_pause_consumer() FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_resume_consumer() RETURNS void
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$LOCK TABLE cqrs.consumer IN SHARE ROW EXCLUSIVE MODE;
	UPDATE cqrs.consumer SET paused = false; SELECT cqrs.wake_consumer()$$;
COMMENT ON FUNCTION @extschema@.cqrs_resume_consumer() IS 'resumes consuming after cqrs_pause_consumer';
REVOKE ALL ON FUNCTION @extschema@.cqrs_resume_consumer() FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_retry_failed(cqrs_id text DEFAULT NULL,
		ids bigint[] DEFAULT NULL)
	RETURNS bigint
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	n bigint;
BEGIN
	UPDATE cqrs.failed f SET attempts = 0, next_try = clock_timestamp()
		WHERE (cqrs_retry_failed.cqrs_id IS NULL OR f.cqrs_id = cqrs_retry_failed.cqrs_id)
			AND (cqrs_retry_failed.ids IS NULL OR f.id = ANY (cqrs_retry_failed.ids));
	GET DIAGNOSTICS n = ROW_COUNT;
	PERFORM cqrs.wake_consumer();
	RETURN n;
END
$$;
COMMENT ON FUNCTION @extschema@.cqrs_retry_failed(text, bigint[]) IS 'makes the consumer try failed messages again now, dead letters included; returns how many';
REVOKE ALL ON FUNCTION @extschema@.cqrs_retry_failed(text, bigint[]) FROM PUBLIC;

--
-- Functions for users
--

CREATE FUNCTION @extschema@.cqrs_register(relation regclass,
		cqrs_id text DEFAULT NULL, fields text[] DEFAULT NULL,
		tracked_fields text[] DEFAULT NULL, field_map jsonb DEFAULT NULL,
		meta regproc DEFAULT NULL, produce boolean DEFAULT true,
		serializer regproc DEFAULT NULL, sync_when text DEFAULT NULL,
		delete_data regproc DEFAULT NULL, leave text DEFAULT 'ignore',
		on_error text DEFAULT 'fail', skip_unchanged boolean DEFAULT false,
		message_ttl integer DEFAULT NULL, exchange text DEFAULT NULL,
		routing_key text DEFAULT NULL, on_truncate text DEFAULT 'delete',
		replication text DEFAULT 'origin')
	RETURNS text
	AS 'MODULE_PATHNAME', 'cqrs_register' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_register(regclass, text, text[], text[], jsonb, regproc, boolean, regproc, text, regproc, text, text, boolean, integer, text, text, text, text) IS 'makes a table a master, so that its changes are published';

CREATE FUNCTION @extschema@.cqrs_unregister(cqrs_id text) RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_unregister' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_unregister(text) IS 'removes a master; the table and its columns stay';

CREATE FUNCTION @extschema@.cqrs_alter(cqrs_id text, options jsonb) RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_alter' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_alter(text, jsonb) IS 'changes options of a master';

CREATE FUNCTION @extschema@.cqrs_register_replica(relation regclass,
		cqrs_id text DEFAULT NULL, fields text[] DEFAULT NULL,
		field_map jsonb DEFAULT NULL, handler regproc DEFAULT NULL,
		retry regproc DEFAULT NULL, max_retries integer DEFAULT 30,
		retry_delay interval DEFAULT '2 s',
		only_direct_syncs boolean DEFAULT false,
		on_expired text DEFAULT 'dead_letter', exchange text DEFAULT NULL,
		routing_key text DEFAULT NULL, soft_delete text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cqrs_register_replica' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_register_replica(regclass, text, text[], jsonb, regproc, regproc, integer, interval, boolean, text, text, text, text) IS 'makes a table a replica, so that it follows a master';
REVOKE ALL ON FUNCTION @extschema@.cqrs_register_replica(regclass, text, text[], jsonb, regproc, regproc, integer, interval, boolean, text, text, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_alter_replica(cqrs_id text, options jsonb)
	RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_alter_replica' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_alter_replica(text, jsonb) IS 'changes options of a replica';
REVOKE ALL ON FUNCTION @extschema@.cqrs_alter_replica(text, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.cqrs_unregister_replica(cqrs_id text) RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_unregister_replica' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_unregister_replica(text) IS 'removes a replica; the table, its rows and its columns stay';

CREATE FUNCTION @extschema@.cqrs_sync(cqrs_id text, filter text DEFAULT NULL,
		queue text DEFAULT NULL)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_sync_filter' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_sync(text, text, text) IS 'sends the current rows of a master that match a filter, as SYNC';

CREATE FUNCTION @extschema@.cqrs_sync("row" record, queue text DEFAULT NULL)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'cqrs_sync_row' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_sync(record, text) IS 'sends the current state of a row, as SYNC, for all masters of its table';

CREATE FUNCTION @extschema@.cqrs_retry_parked(cqrs_id text DEFAULT NULL,
		ids bigint[] DEFAULT NULL)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_retry_parked' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_retry_parked(text, bigint[]) IS 'makes parked messages again and sends them';

CREATE FUNCTION @extschema@.cqrs_park_held(cqrs_id text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_park_held' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_park_held(text) IS 'moves the pending messages of a held master to cqrs.parked';

CREATE FUNCTION @extschema@.cqrs_flush() RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_flush' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_flush() IS 'makes the messages of the changes that the transaction has made so far';

CREATE FUNCTION @extschema@.cqrs_bulk_dump(cqrs_id text) RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'cqrs_bulk_dump' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_bulk_dump(text) IS 'returns the rows of a master as input of django-cqrs''s command cqrs_bulk_load';

CREATE FUNCTION @extschema@.cqrs_bulk_dump(cqrs_id text, filename text,
		overwrite boolean DEFAULT false)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_bulk_dump_file' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_bulk_dump(text, text, boolean) IS 'writes the rows of a master to a file on the server, as input of django-cqrs''s command cqrs_bulk_load';

CREATE PROCEDURE @extschema@.cqrs_sync_all(cqrs_id text,
		filter text DEFAULT NULL, queue text DEFAULT NULL,
		batch_size integer DEFAULT 10000, after jsonb DEFAULT NULL)
	AS 'MODULE_PATHNAME', 'cqrs_sync_all' LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.cqrs_sync_all(text, text, text, integer, jsonb) IS 'sends the rows of a master as SYNC, with one transaction for each batch';

CREATE FUNCTION @extschema@.cqrs_diff_master(cqrs_id text,
		filter text DEFAULT NULL, batch integer DEFAULT 10000)
	RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'cqrs_diff_master' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_diff_master(text, text, integer) IS 'returns keys and revisions of a master''s rows, as input of django-cqrs''s command cqrs_diff_replica';

CREATE FUNCTION @extschema@.cqrs_diff_sync(lines text[]) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_diff_sync' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_diff_sync(text[]) IS 'sends the rows that django-cqrs''s command cqrs_diff_replica lists, as SYNC';

CREATE FUNCTION @extschema@.cqrs_deleted_diff_master(lines text[])
	RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'cqrs_deleted_diff_master' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_deleted_diff_master(text[]) IS 'returns the keys of django-cqrs''s command cqrs_deleted_diff_replica that the master does not have';

CREATE FUNCTION @extschema@.cqrs_diff_replica(lines text[]) RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'cqrs_diff_replica' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_diff_replica(text[]) IS 'returns the keys of the rows of cqrs_diff_master that the replica lacks or has with another revision';

CREATE FUNCTION @extschema@.cqrs_deleted_diff_replica(cqrs_id text,
		filter text DEFAULT NULL, batch integer DEFAULT 10000)
	RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'cqrs_deleted_diff_replica' LANGUAGE C;
COMMENT ON FUNCTION @extschema@.cqrs_deleted_diff_replica(text, text, integer) IS 'returns the keys of a replica''s rows, as input of cqrs_deleted_diff_master';

CREATE FUNCTION @extschema@.cqrs_deleted_sync_replica(lines text[]) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cqrs_deleted_sync_replica' LANGUAGE C STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_deleted_sync_replica(text[]) IS 'deletes the rows of a replica that cqrs_deleted_diff_master lists; returns how many';

CREATE PROCEDURE @extschema@.cqrs_bulk_load(lines text[],
		clear boolean DEFAULT false, batch integer DEFAULT 10000,
		INOUT loaded bigint DEFAULT NULL, INOUT skipped bigint DEFAULT NULL,
		INOUT failed bigint DEFAULT NULL, INOUT errors jsonb DEFAULT NULL)
	AS 'MODULE_PATHNAME', 'cqrs_bulk_load' LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.cqrs_bulk_load(text[], boolean, integer, bigint, bigint, bigint, jsonb) IS 'loads the lines of cqrs_bulk_dump into a replica, with one transaction for each batch';

CREATE PROCEDURE @extschema@.cqrs_bulk_load(filename text,
		clear boolean DEFAULT false, batch integer DEFAULT 10000,
		INOUT loaded bigint DEFAULT NULL, INOUT skipped bigint DEFAULT NULL,
		INOUT failed bigint DEFAULT NULL, INOUT errors jsonb DEFAULT NULL)
	AS 'MODULE_PATHNAME', 'cqrs_bulk_load_file' LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.cqrs_bulk_load(text, boolean, integer, bigint, bigint, bigint, jsonb) IS 'loads a file on the server with the lines of cqrs_bulk_dump into a replica, with one transaction for each batch';

CREATE FUNCTION @extschema@.cqrs_relation(cqrs_id text) RETURNS regclass
	AS 'MODULE_PATHNAME', 'cqrs_sql_relation' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_relation(text) IS 'returns the table of a master';

CREATE FUNCTION @extschema@.cqrs_to_json("row" record, cqrs_id text) RETURNS json
	AS 'MODULE_PATHNAME', 'cqrs_to_json' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_to_json(record, text) IS 'returns a row as instance_data of a message of a master';

CREATE FUNCTION @extschema@.cqrs_is_initial_save("row" record) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cqrs_is_initial_save' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.cqrs_is_initial_save(record) IS 'returns whether the current transaction has saved a row at most once';

CREATE FUNCTION @extschema@.cqrs_wait_published(timeout interval DEFAULT NULL)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'cqrs_wait_published' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.cqrs_wait_published(interval) IS 'waits until the broker has confirmed the messages that this session has committed';

CREATE PROCEDURE @extschema@.cqrs_wait_applied(cqrs_id text, instance_pk jsonb,
		revision bigint, timeout interval DEFAULT NULL,
		INOUT outcome text DEFAULT NULL, INOUT error text DEFAULT NULL)
	AS 'MODULE_PATHNAME', 'cqrs_wait_applied' LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.cqrs_wait_applied(text, jsonb, bigint, interval, text, text) IS 'waits until the consumer has applied a change of a row, or cannot apply the change';

--
-- Progress and checks
--

-- The numbers are those of src/resend/progress.c; here parameters count from 1.
CREATE VIEW cqrs.progress_sync AS
	SELECT p.pid, p.datid, d.datname, p.relid,
		CASE p.param18 WHEN 1 THEN 'sync' WHEN 2 THEN 'dump' WHEN 3 THEN 'load' END AS command,
		CASE p.param20 WHEN 1 THEN 'reading' WHEN 2 THEN 'waiting for the publisher' WHEN 3 THEN 'applying' END AS phase,
		p.param19 AS rows_estimated, p.param3 AS rows_processed,
		p.param1 AS bytes_processed
	FROM pg_catalog.pg_stat_get_progress_info('COPY') AS p
		LEFT JOIN pg_catalog.pg_database d ON d.oid = p.datid
	WHERE p.param17 = 1668379251;
COMMENT ON VIEW cqrs.progress_sync IS 'progress of running cqrs_sync_all and cqrs_bulk_load, and of running cqrs_bulk_dump into a file';
GRANT SELECT ON cqrs.progress_sync TO PUBLIC;

CREATE FUNCTION cqrs.url_is_set() RETURNS boolean
	AS 'MODULE_PATHNAME', 'cqrs_sql_url_is_set' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION cqrs.url_is_set() IS 'returns whether cqrs.url is set';
REVOKE ALL ON FUNCTION cqrs.url_is_set() FROM PUBLIC;

-- What to do about the last error of a publisher or consumer without a
-- connection; "url" is the setting with the address of its broker.
CREATE FUNCTION cqrs.broker_remedy(error text, url text) RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE
		WHEN error LIKE '%"cqrs.password_file"%'
			THEN 'correct cqrs.password_file, or the file that it names, as the error says'
		WHEN error LIKE 'could not resolve host%'
			THEN format('correct the name of the host in %s, or check the name server', url)
		WHEN error LIKE 'could not connect:%'
			THEN format('start the broker, or correct host and port in %s; check firewalls', url)
		WHEN error LIKE 'invalid URL%' THEN format('correct %s', url)
		WHEN error LIKE '%certificate%' OR error LIKE '%TLS%' OR error LIKE 'could not load "cqrs.ssl%'
			THEN format('check the broker''s certificate, the settings cqrs.ssl_..., and whether the port in %s is one for TLS', url)
		WHEN error LIKE 'could not log in:% 530 %'
			THEN format('create the vhost that %s names, or permit its user to use the vhost', url)
		WHEN error LIKE 'could not log in:% 403 %' OR error LIKE 'could not log in:%refused user and password%'
			THEN format('correct user and password, in %s and in the file of cqrs.password_file', url)
		WHEN error LIKE '% lease%' AND (error LIKE '% 405 %' OR error LIKE '%another connection%')
			THEN 'end the other publisher of this database; if this is a copy that is to publish as well: SELECT cqrs_adopt()'
		WHEN error LIKE '% 403 %' OR error LIKE '%NOPERM%'
			THEN 'grant the user the permission that the error names, at the broker'
		WHEN error LIKE 'could not declare the exchange:% 406 %'
			THEN 'delete the exchange at the broker, or choose another cqrs.exchange'
		WHEN error LIKE '%: the broker accepts no messages%'
			THEN 'free memory or disk space at the broker'
		WHEN error LIKE '%protocol violation%' OR error LIKE '%another version of AMQP%' OR error LIKE '%no answer in time%'
			THEN format('check that a broker is at host and port of %s, and that it speaks the protocol of the URL', url)
		ELSE 'check the broker and the network; attempts to connect go on' END
	$$;
COMMENT ON FUNCTION cqrs.broker_remedy(text, text) IS 'returns what to do about the error of a connection to the broker';
REVOKE ALL ON FUNCTION cqrs.broker_remedy(text, text) FROM PUBLIC;

CREATE FUNCTION cqrs.other_publisher(cqrs_id text, exchange text) RETURNS text
	AS 'MODULE_PATHNAME', 'cqrs_sql_other_publisher' LANGUAGE C STABLE;
COMMENT ON FUNCTION cqrs.other_publisher(text, text) IS 'returns another database of the server that publishes with a cqrs_id to an exchange of the same broker';
REVOKE ALL ON FUNCTION cqrs.other_publisher(text, text) FROM PUBLIC;

CREATE FUNCTION cqrs.check_master(cqrs_id text) RETURNS void
	AS 'MODULE_PATHNAME', 'cqrs_sql_check_master' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION cqrs.check_master(text) IS 'raises the error that a write to the table of a master would raise';
REVOKE ALL ON FUNCTION cqrs.check_master(text) FROM PUBLIC;

CREATE FUNCTION cqrs.check_replica(cqrs_id text, OUT warning text,
		OUT remedy text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cqrs_sql_check_replica' LANGUAGE C STABLE STRICT ROWS 1;
COMMENT ON FUNCTION cqrs.check_replica(text) IS 'raises the error with which all messages of a replica fail; returns what may make some of them fail';
REVOKE ALL ON FUNCTION cqrs.check_replica(text) FROM PUBLIC;

-- Returns the items in the order below: one for each prepared transaction, for
-- each master, for each table without a master and for each replica, and one of
-- each other kind.
CREATE FUNCTION @extschema@.cqrs_check(OUT item text, OUT status text,
		OUT detail text, OUT remedy text)
	RETURNS SETOF record
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	stats record;
	running record;
	master record;
	orphan record;
	replica record;
	trouble text;
	missing boolean;
	parked record;
	bytes bigint;
	allowed bigint;
	xact record;
	consumer record;
BEGIN
	SELECT * INTO stats FROM cqrs.stats;

	item := 'url'; status := 'ok'; detail := 'cqrs.url is set'; remedy := NULL;
	IF NOT cqrs.url_is_set() THEN
		status := 'error'; detail := 'cqrs.url is not set: messages wait in the outbox';
		remedy := 'ALTER SYSTEM SET cqrs.url = ''amqp://...''; SELECT pg_reload_conf()';
		IF EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
				WHERE d.datname = current_database() AND s.setrole = 0
					AND split_part(c, '=', 1) IN ('cqrs.url', 'cqrs.consumer_url', 'cqrs.exchange')) THEN
			detail := 'cqrs.url is not set, or a URL or exchange that is set for this database is invalid: messages wait in the outbox';
			remedy := 'look into the server''s log, which says what is invalid, and correct it by ALTER DATABASE';
		END IF;
	END IF;
	SELECT string_agg(DISTINCT f.name || ' in ' || f.sourcefile || ' line ' || f.sourceline, ', ') INTO trouble
		FROM pg_file_settings f WHERE f.name IN ('cqrs.url', 'cqrs.consumer_url') AND f.error IS NOT NULL;
	IF trouble IS NOT NULL THEN
		status := 'error';
		detail := format('%s is invalid: %s', trouble,
			CASE WHEN cqrs.url_is_set() THEN 'another value is in use' ELSE 'messages wait in the outbox' END);
		remedy := 'correct the line, SELECT pg_reload_conf(), and look into the server''s log, which says what is invalid';
	END IF;
	RETURN NEXT;

	item := 'produce'; status := 'ok'; detail := 'cqrs.produce is on'; remedy := NULL;
	IF NOT current_setting('cqrs.produce')::boolean THEN
		status := 'warning'; detail := 'cqrs.produce is off in this session: its changes are not sent';
		remedy := 'reset cqrs.produce; see ALTER DATABASE and ALTER ROLE';
	END IF;
	RETURN NEXT;

	item := 'publisher'; status := 'ok'; remedy := NULL;
	SELECT count(l.pid) AS n, count(*) AS lanes, string_agg(l.pid::text, ', ' ORDER BY l.lane) AS pids,
		string_agg(l.lane::text, ', ' ORDER BY l.lane) FILTER (WHERE l.pid IS NULL) AS missing,
		count(l.connected_at) AS connected,
		string_agg(l.lane::text, ', ' ORDER BY l.lane) FILTER (WHERE l.connected_at IS NULL) AS waiting,
		-- each lane has messages of all masters
		max(l.unbound) AS unbound
		INTO running FROM cqrs.publisher_stats() l WHERE l.lane < l.lanes;
	detail := format('process %s, %s', running.pids, stats.state);
	IF pg_is_in_recovery() THEN
		detail := 'nothing publishes on a standby';
	ELSIF running.n < running.lanes THEN
		status := 'error';
		detail := CASE running.n WHEN 0 THEN 'no publisher runs'
			ELSE format('publishers run, but not that of lane %s', running.missing) END
			|| coalesce(', last error: ' || stats.last_error, '');
		remedy := CASE WHEN running.n = 0 AND stats.last_error_at >= stats.started_at
			THEN 'remove the cause of the last error; the publisher is started again every second'
			ELSE format('look into the server''s log; is max_worker_processes (%s) large enough?',
				current_setting('max_worker_processes')) END;
	ELSIF stats.state = 'restored' THEN
		status := 'warning';
		detail := 'publishing is held back: masters were restored from a dump, or came with a template';
		remedy := 'if this database is to publish, SELECT cqrs_resume()';
	ELSIF stats.state = 'paused' THEN
		status := 'warning'; detail := 'publishing is paused'; remedy := 'SELECT cqrs_resume()';
	END IF;
	RETURN NEXT;

	item := 'broker'; status := 'ok'; remedy := NULL;
	detail := coalesce('connected since ' || stats.connected_at, 'not connected');
	IF stats.state = 'blocked' THEN
		status := 'warning'; detail := 'the broker blocks publishers: it is short of memory or disk space';
		remedy := 'free memory or disk space at the broker';
	ELSIF stats.connected_at IS NULL AND NOT pg_is_in_recovery() THEN
		status := CASE WHEN stats.last_error IS NULL THEN 'warning' ELSE 'error' END;
		detail := CASE running.connected WHEN 0 THEN 'not connected'
			ELSE format('connected, but not lane %s', running.waiting) END
			|| coalesce(', last error: ' || stats.last_error, '');
		remedy := CASE
			WHEN stats.state IN ('unconfigured', 'paused', 'stopped') THEN 'resolve the items above first'
			WHEN stats.state = 'standing by'
				THEN 'end the other publisher of this database; if this is a copy that is to publish as well: SELECT cqrs_adopt()'
			WHEN stats.last_error IS NULL THEN 'wait for the first attempt to connect'
			ELSE cqrs.broker_remedy(stats.last_error, 'cqrs.url') END;
	ELSIF stats.held > 0 THEN
		status := 'error';
		detail := format('connected, but %s masters are held, last error: %s', stats.held, stats.last_error);
		remedy := 'check exchanges, queues and permissions at the broker; if a route can never work, use cqrs_park_held()';
	ELSIF running.unbound > 0 THEN
		status := 'warning';
		detail := format('connected, but no queue is bound for %s masters; %s messages were lost so far',
			running.unbound, stats.returned);
		remedy := 'start a replica for each master, so that its queue is bound; the next message that reaches a queue ends this warning, as does a reload';
	END IF;
	RETURN NEXT;

	SELECT split_part(s.advice, E'\n', 1), split_part(s.advice, E'\n', 2) INTO detail, remedy
		FROM cqrs.publisher_stats() s
		WHERE s.lane = 0 AND s.connected_at IS NOT NULL AND s.advice IS NOT NULL;
	IF FOUND THEN
		item := 'broker settings'; status := 'warning';
		RETURN NEXT;
	END IF;

	item := 'outbox'; status := 'ok'; remedy := NULL;
	SELECT sum(pg_total_relation_size(c.oid)) INTO bytes FROM pg_class c
		WHERE c.relnamespace = 'cqrs'::regnamespace AND c.relname ~ '^segment_[0-9]$';
	detail := format('%s messages pending, the oldest for %s; %s on disk',
		stats.pending, coalesce(date_trunc('second', stats.oldest_pending_age)::text, '-'),
		pg_size_pretty(bytes));
	IF stats.oldest_pending_age > '1 minute' THEN
		status := 'warning';
		remedy := 'check the items publisher and broker, and open or prepared transactions';
	END IF;
	allowed := pg_size_bytes(current_setting('cqrs.max_pending_bytes'));
	IF allowed > 0 AND bytes > allowed * 0.8 THEN
		status := CASE WHEN bytes < allowed THEN 'warning' ELSE 'error' END;
		detail := format('%s, cqrs.max_pending_bytes is %s', detail, pg_size_pretty(allowed));
		remedy := 'check the items publisher and broker, or raise cqrs.max_pending_bytes';
	END IF;
	RETURN NEXT;

	FOR xact IN SELECT x.gid, x.prepared FROM pg_prepared_xacts x
		WHERE x.database = current_database() AND x.prepared < clock_timestamp() - interval '1 minute'
		ORDER BY x.prepared
	LOOP
		item := 'prepared transaction ' || xact.gid; status := 'warning';
		detail := format('prepared at %s: segments of the outbox cannot be truncated', xact.prepared);
		remedy := format('COMMIT PREPARED %1$L, or ROLLBACK PREPARED %1$L', xact.gid);
		RETURN NEXT;
	END LOOP;

	item := 'parked'; status := 'ok'; detail := 'no messages are parked'; remedy := NULL;
	SELECT count(*) AS messages, string_agg(DISTINCT p.cqrs_id, ', ') AS masters
		INTO parked FROM cqrs.parked p;
	IF parked.messages > 0 THEN
		status := 'warning';
		detail := format('%s messages are parked, of: %s', parked.messages, parked.masters);
		remedy := 'see column "error" of cqrs.parked; after removing the cause: SELECT cqrs_retry_parked()';
	END IF;
	RETURN NEXT;

	FOR master IN SELECT m.cqrs_id, m.relation, m.produce, m.replication,
			cqrs.other_publisher(m.cqrs_id, m.exchange) AS other
		FROM cqrs.master m ORDER BY m.cqrs_id
	LOOP
		item := 'master ' || master.cqrs_id; status := 'ok'; remedy := NULL;
		detail := format('table %s', master.relation);
		SELECT string_agg(n.name || CASE WHEN r.relid <> master.relation THEN ' of ' || r.relid ELSE '' END
					|| CASE WHEN t.oid IS NULL THEN ' is missing'
						WHEN f.pronamespace <> 'cqrs'::regnamespace THEN ' is not that of the extension'
						WHEN t.tgenabled = 'D' THEN ' is disabled'
						ELSE format(' does not fire as "replication" says (%s)', master.replication) END,
				', ' ORDER BY r.relid::text, n.name),
				bool_or(t.oid IS NULL OR f.pronamespace <> 'cqrs'::regnamespace)
			INTO trouble, missing
			FROM (SELECT master.relation AS relid, false AS is_chunk
				UNION SELECT p.relid, false FROM pg_partition_tree(master.relation) p
				UNION SELECT i.inhrelid, true FROM pg_inherits i
					JOIN pg_class c ON c.oid = i.inhparent AND c.relkind = 'r'
					WHERE i.inhparent = master.relation) r
				CROSS JOIN unnest(ARRAY['00_cqrs_insert_delete', 'zz_cqrs_truncate', 'zz_cqrs_update']) n(name)
				LEFT JOIN pg_trigger t ON t.tgrelid = r.relid AND t.tgname = n.name
				LEFT JOIN pg_proc f ON f.oid = t.tgfoid
			WHERE NOT (r.is_chunk AND n.name = 'zz_cqrs_truncate')
				AND (t.oid IS NULL OR f.pronamespace <> 'cqrs'::regnamespace
					OR t.tgenabled <> CASE master.replication WHEN 'replica' THEN 'R' WHEN 'always' THEN 'A' ELSE 'O' END);
		IF trouble IS NOT NULL THEN
			status := 'error';
			detail := format('table %s: trigger %s', master.relation, trouble);
			remedy := format(CASE WHEN missing THEN 'end the masters of the table and register them again'
				ELSE 'SELECT cqrs_alter(%1$L, ''{"replication": "%2$s"}'')' END || '; then CALL cqrs_sync_all(%1$L)',
				master.cqrs_id, master.replication);
		ELSE
			BEGIN
				PERFORM cqrs.check_master(master.cqrs_id);
				IF NOT master.produce THEN
					status := 'warning';
					detail := format('table %s: "produce" is false, nothing is sent', master.relation);
					remedy := format('SELECT cqrs_alter(%L, ''{"produce": true}'')', master.cqrs_id);
				ELSIF master.other IS NOT NULL THEN
					status := 'warning';
					detail := format('table %s: database "%s" of this server publishes with the same cqrs_id to the same exchange; replicas mix up the rows of both',
						master.relation, master.other);
					remedy := 'choose another cqrs_id or exchange, or ALTER DATABASE ... SET cqrs.exchange or cqrs.url in one of the databases';
				END IF;
			EXCEPTION WHEN OTHERS THEN
				status := 'error';
				detail := format('writing to table %s fails: %s', master.relation, SQLERRM);
				GET STACKED DIAGNOSTICS remedy = PG_EXCEPTION_HINT;
				remedy := coalesce(nullif(remedy, ''), 'change the master with cqrs_alter(), or the setting that the detail names');
			END;
		END IF;
		RETURN NEXT;
	END LOOP;

	-- A dump of a single table contains its triggers, but not its masters.
	FOR orphan IN SELECT t.tgrelid::regclass AS relation FROM pg_trigger t
			JOIN pg_proc f ON f.oid = t.tgfoid AND f.pronamespace = 'cqrs'::regnamespace
				AND f.proname IN ('trigger_update', 'trigger_insert_delete')
			JOIN pg_class c ON c.oid = t.tgrelid AND NOT c.relispartition
		WHERE NOT EXISTS (SELECT FROM cqrs.master m WHERE m.relation = t.tgrelid)
			AND NOT EXISTS (SELECT FROM pg_inherits i
				JOIN cqrs.master m ON m.relation = i.inhparent WHERE i.inhrelid = t.tgrelid)
		GROUP BY t.tgrelid ORDER BY t.tgrelid::regclass::text
	LOOP
		item := format('table %s', orphan.relation); status := 'error';
		detail := format('table %s has the triggers of a master, but no master: its changes are not published', orphan.relation);
		remedy := format('SELECT cqrs_register(%L, ...) with the options that the master had, then CALL cqrs_sync_all; or drop the triggers',
			orphan.relation);
		RETURN NEXT;
	END LOOP;

	SELECT s.*, c.paused, c.dropping, c.timeline, c.id IS NOT NULL AS consumes,
			(SELECT count(*) FROM cqrs.replica) AS replicas
		INTO consumer
		FROM cqrs.consumer_stats s LEFT JOIN cqrs.consumer c ON true;
	IF consumer.consumes OR consumer.replicas > 0 THEN
		item := 'consumer'; status := 'ok'; remedy := NULL;
		detail := format('process %s, %s, queue "%s"', consumer.pid, consumer.state, consumer.queue);
		IF NOT consumer.consumes THEN
			status := 'warning'; detail := 'there are replicas, but no queue is consumed';
			remedy := 'SELECT cqrs_consume(''QUEUE'')';
		ELSIF pg_is_in_recovery() THEN
			detail := 'nothing is consumed on a standby';
		ELSIF consumer.pid IS NULL THEN
			status := 'error';
			detail := 'no consumer runs' || coalesce(', last error: ' || consumer.last_error, '');
			remedy := CASE WHEN consumer.last_error_at >= consumer.started_at
				THEN 'remove the cause of the last error; the consumer is started again every second'
				ELSE format('look into the server''s log; is max_worker_processes (%s) large enough?',
					current_setting('max_worker_processes')) END;
		ELSIF consumer.dropping THEN
			status := 'warning';
			detail := format('the queue "%s" is to be dropped, but has not been dropped yet', consumer.queue) ||
				coalesce(', last error: ' || consumer.last_error, '');
			remedy := 'check the broker; the consumer drops the queue as soon as it is connected';
			IF consumer.state = 'standing by' THEN
				status := 'error';
				detail := format('the queue "%s" is not dropped, because another consumer has it, last error: %s',
					consumer.queue, consumer.last_error);
				remedy := 'SELECT cqrs_stop_consuming(), and drop the queue where it is consumed';
			END IF;
		ELSIF consumer.state = 'unconfigured' THEN
			status := 'error'; detail := 'neither cqrs.consumer_url nor cqrs.url is set: messages wait in the queue';
			remedy := 'ALTER SYSTEM SET cqrs.consumer_url = ''amqp://...''; SELECT pg_reload_conf()';
		ELSIF consumer.state = 'paused' THEN
			status := 'warning'; detail := 'consuming is paused'; remedy := 'SELECT cqrs_resume_consumer()';
		ELSIF consumer.state = 'standing by' THEN
			status := 'error';
			detail := 'standing by, last error: ' || coalesce(consumer.last_error, '-');
			remedy := format('if this database is to consume the queue, end the other consumer and SELECT cqrs_consume(%L)', consumer.queue);
		ELSIF consumer.state = 'full' THEN
			status := 'error';
			detail := format('%s messages wait for a retry, as many as cqrs.max_failed allows: no more are consumed', consumer.waiting);
			remedy := 'see column "error" of cqrs.failed; after removing the cause: SELECT cqrs_retry_failed()';
		ELSIF consumer.state = 'backing off' THEN
			status := 'error';
			detail := 'nothing can be committed, last error: ' || coalesce(consumer.last_error, '-');
			remedy := 'remove the cause of the last error; the consumer goes on by itself';
		ELSIF consumer.connected_at IS NULL THEN
			status := CASE WHEN consumer.last_error IS NULL THEN 'warning' ELSE 'error' END;
			detail := 'not connected' || coalesce(', last error: ' || consumer.last_error, '');
			remedy := CASE WHEN consumer.last_error IS NULL THEN 'wait for the first attempt to connect'
				ELSE cqrs.broker_remedy(consumer.last_error, 'cqrs.consumer_url or cqrs.url') END;
		ELSIF consumer.delivery_count >= 10 THEN
			status := 'warning';
			detail := format('a message was returned to the queue %s times; a quorum queue may drop such messages', consumer.delivery_count);
			remedy := 'find out what ends the consumer''s connections; remove the delivery limit of the queue';
		END IF;
		RETURN NEXT;

		item := 'failed messages'; status := 'ok'; remedy := NULL;
		detail := format('%s messages wait for a retry, %s are dead letters', consumer.waiting, consumer.dead);
		IF consumer.waiting + consumer.dead > 0 THEN
			status := 'warning';
			remedy := 'see column "error" of cqrs.failed; after removing the cause: SELECT cqrs_retry_failed()';
		END IF;
		RETURN NEXT;
	END IF;
	IF consumer.timeline IS NOT NULL AND NOT pg_is_in_recovery() AND
			consumer.timeline <> ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer THEN
		item := 'consumer timeline'; status := 'warning';
		detail := 'this server was promoted since cqrs_consume() was called: the last messages that the former primary consumed may be missing';
		remedy := format('at each master SELECT cqrs_sync(CQRS_ID, ''cqrs_updated > ...'', %1$L), then compare; finally SELECT cqrs_consume(%1$L)', consumer.queue);
		RETURN NEXT;
	END IF;

	FOR replica IN SELECT r.cqrs_id, r.relation, r.handler FROM cqrs.replica r ORDER BY r.cqrs_id
	LOOP
		item := 'replica ' || replica.cqrs_id; status := 'ok'; remedy := NULL;
		detail := coalesce('table ' || replica.relation, 'handler ' || replica.handler);
		BEGIN
			SELECT string_agg(w.warning, '; ' ORDER BY w.warning COLLATE "C"), string_agg(DISTINCT w.remedy, ' ')
				INTO STRICT trouble, remedy
				FROM cqrs.check_replica(replica.cqrs_id) w HAVING count(*) > 0;
			status := 'warning'; detail := trouble;
		EXCEPTION
			WHEN no_data_found THEN
				NULL;
			WHEN OTHERS THEN
				status := 'error';
				detail := format('messages fail: %s', SQLERRM);
				GET STACKED DIAGNOSTICS remedy = PG_EXCEPTION_HINT;
				remedy := coalesce(nullif(remedy, ''), 'change the replica with cqrs_alter_replica(), or end it with cqrs_unregister_replica()');
		END;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.cqrs_check() IS 'checks settings, publishers, broker, outbox, masters and replicas, and says what to do';
REVOKE ALL ON FUNCTION @extschema@.cqrs_check() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.cqrs_check() TO pg_monitor;

SELECT cqrs.wake_publisher();

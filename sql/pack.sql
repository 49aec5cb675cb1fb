-- How messages lie in the rows of segments, and that they come out as they went
-- in: small ones together, large ones alone, across the ends of batches.
CREATE TABLE p (id int PRIMARY KEY, v text);
SELECT cqrs_register('p', tracked_fields => '{v}');
SELECT test_skip();

-- The messages since the last call against the table, in the order of its keys.
CREATE FUNCTION test_packed(OUT messages bigint, OUT equal bigint, OUT in_order boolean, OUT distinct_ids bigint)
	LANGUAGE sql AS $$
	SELECT count(*), count(*) FILTER (WHERE m.body::jsonb #>> '{instance_data,v}' = p.v),
		bool_and(m.pk = m.place + m.first_pk - 1), count(DISTINCT m.id)
	FROM (SELECT o.id, o.body, o.instance_pk::int AS pk, row_number() OVER (ORDER BY o.id) AS place,
			min(o.instance_pk::int) OVER () AS first_pk
		FROM cqrs.outbox o WHERE o.id > (SELECT id FROM test_mark)) m
	JOIN p ON p.id = m.pk
$$;
-- Rows of segments for them.
CREATE FUNCTION test_rows() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM (TABLE cqrs.segment_0 UNION ALL TABLE cqrs.segment_1 UNION ALL TABLE cqrs.segment_2) s
	WHERE s.id > (SELECT id FROM test_mark)
$$;

-- One is a row; a thousand are a few.
INSERT INTO p VALUES (1, 'one');
SELECT test_rows(), test_packed(), test_skip();
INSERT INTO p SELECT i, 'v' || i FROM generate_series(2, 1001) i;
SELECT test_rows() BETWEEN 2 AND 50, test_packed(), test_skip();

-- What cannot be compressed, larger than a pack, a page, a tuple.
SELECT setseed(0.5);
INSERT INTO p SELECT 2000 + i, (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, i * i * i * 10) WHERE i > 0)
	FROM generate_series(1, 15) i;
INSERT INTO p VALUES (2016, 'small');
SELECT max(length(v)) FROM p;
SELECT test_packed(), test_skip();

-- More than a batch of ids; a pack is of one batch.
INSERT INTO p SELECT 10000 + i, repeat('x', i % 100) FROM generate_series(1, 150000) i;
SELECT count(*) FROM (TABLE cqrs.segment_0 UNION ALL TABLE cqrs.segment_1 UNION ALL TABLE cqrs.segment_2) s
WHERE id / 100000 <> last_id / 100000;
SELECT count(DISTINCT id / 100000) FROM cqrs.outbox WHERE id > (SELECT id FROM test_mark);
SELECT test_packed();

-- cqrs.stats counts messages, not rows.
SELECT s.pending = (SELECT count(*) FROM cqrs.outbox) FROM cqrs.stats s;
SELECT setval('cqrs.watermark', (SELECT max(id) - 100 FROM cqrs.outbox)) IS NOT NULL;
SELECT s.pending, (SELECT count(*) FROM cqrs.outbox) FROM cqrs.stats s;
SELECT test_skip();

-- All parts of a message.
SELECT cqrs_alter('p', '{"exchange": "e", "routing_key": "k", "message_ttl": 0}');
SET cqrs.correlation_id = 'c';
UPDATE p SET v = 'all' WHERE id = 1;
SELECT cqrs_sync('p', 'id = 1', 'q');
SELECT cqrs_sync('p', 'id = 1');
RESET cqrs.correlation_id;
SELECT m.signal_type, m.cqrs_id, m.instance_pk, m.queue, m.correlation_id, m.exchange, m.routing_key, m.message_ttl,
	m.body::jsonb -> 'previous_data' AS previous
FROM (TABLE cqrs.segment_0 UNION ALL TABLE cqrs.segment_1 UNION ALL TABLE cqrs.segment_2) s, cqrs.unpack(s.id, s.messages) m
WHERE m.id > (SELECT id FROM test_mark) ORDER BY m.id;

-- An id that a parked message takes.
CREATE FUNCTION p_fails(r p) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
	IF r.v = 'fail' THEN RAISE EXCEPTION 'failed'; END IF;
	RETURN jsonb_build_object('id', r.id, 'v', r.v);
END
$$;
SELECT cqrs_alter('p', '{"serializer": "p_fails", "on_error": "park"}');
SELECT test_skip();
INSERT INTO p SELECT 200000 + i, CASE i WHEN 2 THEN 'fail' ELSE 'ok' END FROM generate_series(1, 4) i;
SELECT id % 100000 AS place, instance_pk FROM cqrs.outbox WHERE id > (SELECT id FROM test_mark)
UNION ALL SELECT id % 100000, instance_pk::jsonb FROM cqrs.parked WHERE cqrs_id = 'p' ORDER BY 1;
DELETE FROM cqrs.parked;

-- Bytes that are no pack.
SELECT cqrs.unpack(1, '');
SELECT test_error($q$SELECT cqrs.unpack(1, '\x53')$q$);
SELECT test_error($q$SELECT cqrs.unpack(1, '\x5300ffffffff610031')$q$);
SELECT test_error($q$SELECT cqrs.unpack(1, '\x5301ffffffff61003100327b7d00')$q$);
SELECT test_error($q$SELECT cqrs.unpack(1, '\x5800ffffffff610031007b7d00')$q$);
SELECT test_error($q$SELECT cqrs.unpack(1, '\x5300ffffffffff0031007b7d00')$q$);
SELECT id, signal_type, cqrs_id, instance_pk, message_ttl, message_ttl IS NULL FROM cqrs.unpack(7, '\x5300ffffffff610031007b7d0044000100000062003232007b7d00');

SELECT test_skip();
DROP TABLE p CASCADE;
DROP FUNCTION test_packed, test_rows;

-- The replica: tables named after the cqrs_ids, with the columns of the
-- messages, and a function that applies a message as django-cqrs does.

CREATE TABLE country (
    code text PRIMARY KEY,
    name text NOT NULL,
    official_name text,
    flag text,
    cqrs_revision integer NOT NULL,
    cqrs_updated timestamptz NOT NULL
);

CREATE TABLE subdivision (
    code text PRIMARY KEY,
    country text NOT NULL,
    name text NOT NULL,
    type text NOT NULL,
    cqrs_revision integer NOT NULL,
    cqrs_updated timestamptz NOT NULL
);

CREATE TABLE language (
    code text PRIMARY KEY,
    name text NOT NULL,
    scope text NOT NULL,
    type text NOT NULL,
    cqrs_revision integer NOT NULL,
    cqrs_updated timestamptz NOT NULL
);

-- SAVE puts a row in place unless the same or a newer revision is there, SYNC
-- does so in any case, DELETE removes it.
CREATE FUNCTION apply(message jsonb) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    replica text := message ->> 'cqrs_id';
    pk text := message ->> 'instance_pk';
    data jsonb := message -> 'instance_data';
    stored integer;
BEGIN
    IF message ->> 'signal_type' = 'SAVE' THEN
        EXECUTE format('SELECT cqrs_revision FROM %I WHERE code = $1', replica)
            INTO stored USING pk;
        IF stored >= (data ->> 'cqrs_revision')::integer THEN
            RETURN;
        END IF;
    END IF;

    EXECUTE format('DELETE FROM %I WHERE code = $1', replica) USING pk;
    IF message ->> 'signal_type' <> 'DELETE' THEN
        EXECUTE format('INSERT INTO %1$I SELECT * FROM jsonb_populate_record(NULL::%1$I, $1)',
                       replica)
            USING data;
    END IF;
END
$$;

-- What the consumer writes is copied into this table, which keeps nothing: its
-- trigger applies each message instead.
CREATE TABLE inbox (routing_key text, message_id text, redelivered boolean, body jsonb);

CREATE FUNCTION inbox_apply() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM apply(NEW.body);
    RETURN NULL;
END
$$;

CREATE TRIGGER apply BEFORE INSERT ON inbox
    FOR EACH ROW EXECUTE FUNCTION inbox_apply();

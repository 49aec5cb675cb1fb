-- Makes the tables that Django has made for replicas follow their masters without
-- it, as docs/from-django-cqrs.md says; replica/models.py says the same to
-- django-cqrs.

-- CQRS_META, and what cqrs_create() and cqrs_update() of the model do with it.  A
-- row that Django writes is left alone.
CREATE FUNCTION keep_message() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	m cqrs.message := public.cqrs_current_message();
BEGIN
	IF m.cqrs_id IS NOT NULL THEN
		NEW.previous := m.previous_data;
		NEW.meta := m.meta;
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER keep_message BEFORE INSERT OR UPDATE ON author
	FOR EACH ROW EXECUTE FUNCTION keep_message();

-- CQRS_CUSTOM_SERIALIZATION
CREATE FUNCTION shelf_take(m cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF m.signal_type <> 'DELETE' THEN
		m.instance_data := jsonb_set(m.instance_data::jsonb, '{label}',
			(m.instance_data #> '{label,text}')::jsonb)::json;
	END IF;
	RETURN public.cqrs_apply(m) IS NOT NULL;
END $$;

-- CQRS_NO_DB_OPERATIONS, cqrs_save() and cqrs_delete()
CREATE TABLE signal_taken (
	id serial, signal text, name text, gone jsonb, meta jsonb);
CREATE FUNCTION signal_take(m cqrs.message) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF m.instance_data ->> 'name' LIKE 'fail%' THEN
		RAISE EXCEPTION 'fails on purpose';
	END IF;
	INSERT INTO public.signal_taken (signal, name, gone, meta)
	VALUES (m.signal_type, m.instance_data ->> 'name',
			m.instance_data -> 'custom', m.meta);
	RETURN true;
END $$;

-- should_retry_cqrs() and get_cqrs_retry_delay()
CREATE FUNCTION signal_retry(m cqrs.message, attempts integer, sqlstate text, error text)
RETURNS interval LANGUAGE sql AS $$
	SELECT CASE WHEN error LIKE 'fails on purpose%' AND attempts < 2
		THEN interval '1 ms' END $$;

SELECT cqrs_register_replica('plain', retry_delay => '10 ms'),
       cqrs_register_replica('author'),
       cqrs_register_replica('book', fields => '{number,name,writer}',
                             field_map => '{"number": "id", "name": "title", "writer": "author"}'),
       cqrs_register_replica('shelf', handler => 'shelf_take'),
       cqrs_register_replica('country', only_direct_syncs => true),
       cqrs_register_replica('token'),
       cqrs_register_replica('types'),
       cqrs_register_replica('strange'),
       cqrs_register_replica(NULL, 'signal', handler => 'signal_take',
                             retry => 'signal_retry'),
       cqrs_register_replica('marker');

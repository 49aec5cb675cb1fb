-- Makes the tables that Django has made into masters, as docs/from-django-cqrs.md
-- says; master/models.py says the same to django-cqrs.

CREATE FUNCTION author_meta(a author, signal_type text, instance_data jsonb, previous_data jsonb)
RETURNS jsonb LANGUAGE sql STABLE
AS $$SELECT jsonb_build_object('signal', signal_type, 'name', a.name)$$;

CREATE FUNCTION book_gone(b book) RETURNS jsonb LANGUAGE sql STABLE
AS $$SELECT jsonb_build_object('title', b.title)$$;

CREATE FUNCTION shelf_data(s shelf) RETURNS json LANGUAGE sql STABLE
AS $$SELECT json_build_object('id', s.id, 'label', json_build_object('text', s.label))$$;

CREATE FUNCTION signal_meta(s signal, signal_type text, instance_data jsonb, previous_data jsonb)
RETURNS jsonb LANGUAGE sql STABLE
AS $$SELECT jsonb_build_object('of', signal_type)$$;

CREATE FUNCTION signal_gone(s signal) RETURNS jsonb LANGUAGE sql STABLE
AS $$SELECT jsonb_build_object('name', s.name)$$;

CREATE FUNCTION correlation(signal_type text, cqrs_id text, instance_pk text, queue text)
RETURNS text LANGUAGE sql IMMUTABLE
AS $$SELECT CASE cqrs_id WHEN 'author' THEN
         concat_ws(' ', signal_type, cqrs_id, coalesce(queue, 'None')) END$$;
SELECT format('ALTER DATABASE %I SET cqrs.correlation_function = %L',
              current_database(), 'public.correlation')
\gexec

SELECT cqrs_register('plain'),
       cqrs_register('author', tracked_fields => '{*}',
                     meta => 'author_meta'),
       cqrs_register('book', fields => '{id,title,author_id}',
                     tracked_fields => '{title,author_id}',
                     field_map => '{"author_id": "author"}',
                     sync_when => $$title <> 'draft'$$, delete_data => 'book_gone'),
       cqrs_register('signal', meta => 'signal_meta', delete_data => 'signal_gone'),
       cqrs_register('shelf', serializer => 'shelf_data'),
       cqrs_register('country'),
       cqrs_register('token'),
       cqrs_register('types'),
       cqrs_register('strange'),
       cqrs_register('marker');

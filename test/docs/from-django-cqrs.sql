-- What the examples of docs/from-django-cqrs.md take as given: a table as
-- Django's migrations make it.
CREATE EXTENSION cqrs;
CREATE TABLE author (
	id integer PRIMARY KEY,
	cqrs_revision integer NOT NULL,
	cqrs_updated timestamptz NOT NULL,
	name text NOT NULL);
INSERT INTO author VALUES (1, 0, now(), 'Ada Lovelace');

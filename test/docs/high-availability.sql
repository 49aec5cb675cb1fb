-- What the examples of docs/high-availability.md take as given.
CREATE EXTENSION cqrs;
CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL);
SELECT cqrs_register('author');
INSERT INTO author VALUES (1, 'Ada Lovelace');
CREATE TABLE stock (id integer PRIMARY KEY, amount integer);

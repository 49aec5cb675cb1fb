-- What the examples of docs/troubleshooting.md take as given: a master, and a replica
-- of it in the same database.
CREATE EXTENSION cqrs;
CREATE TABLE author_copy (id integer PRIMARY KEY, name text);
SELECT cqrs_register_replica('author_copy', 'author');
SELECT cqrs_consume('shop');
CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL);
SELECT cqrs_register('author');
INSERT INTO author VALUES (1, 'Ada Lovelace');

-- What the examples of docs/reference.md take as given.
CREATE EXTENSION cqrs;
CREATE ROLE operator;
CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE book (id integer PRIMARY KEY, author_id integer REFERENCES author,
	title text NOT NULL);
SELECT cqrs_register('author');
INSERT INTO author VALUES (1, 'Ada Lovelace'), (2, 'Grace Hopper'),
	(101, 'Alan Turing');

-- What the examples of docs/reference.md take as given.
CREATE EXTENSION cqrs;
CREATE ROLE operator;

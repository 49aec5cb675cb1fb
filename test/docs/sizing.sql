-- What the examples of docs/sizing.md take as given.
CREATE EXTENSION cqrs;

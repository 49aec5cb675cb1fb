-- The replica's tables: ordinary tables as well.  The names of languages may
-- have fewer characters than the master's, which the demo is about to notice.

CREATE TABLE country (
    code text PRIMARY KEY,
    name text NOT NULL,
    flag text
);

CREATE TABLE subdivision (
    code text PRIMARY KEY,
    country_code text NOT NULL REFERENCES country ON DELETE CASCADE,
    name text NOT NULL,
    type text NOT NULL
);

CREATE TABLE language (
    code text PRIMARY KEY,
    name varchar(50) NOT NULL,
    scope text NOT NULL
);

-- The master's tables: ordinary tables, which know nothing of cqrs.

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
    name text NOT NULL,
    scope text NOT NULL
);

-- What /usr/share/iso-codes/json has, as views that the demo loads from.

CREATE FUNCTION iso_codes(standard text) RETURNS SETOF jsonb
    LANGUAGE sql
    RETURN jsonb_array_elements(
        pg_read_file(format('/usr/share/iso-codes/json/iso_%s.json', standard))::jsonb
            -> standard);

CREATE VIEW iso_country AS
    SELECT c ->> 'alpha_2' AS code, c ->> 'name' AS name, c ->> 'flag' AS flag
    FROM iso_codes('3166-1') AS c;

CREATE VIEW iso_subdivision AS
    SELECT s ->> 'code' AS code, split_part(s ->> 'code', '-', 1) AS country_code,
           s ->> 'name' AS name, s ->> 'type' AS type
    FROM iso_codes('3166-2') AS s;

CREATE VIEW iso_language AS
    SELECT l ->> 'alpha_3' AS code, l ->> 'name' AS name, l ->> 'scope' AS scope
    FROM iso_codes('639-3') AS l;

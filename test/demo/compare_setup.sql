-- Lets the master see the replica's tables, for compare.sql.

CREATE EXTENSION postgres_fdw;
CREATE SERVER replica FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'socket', dbname 'replica');
CREATE USER MAPPING FOR CURRENT_USER SERVER replica;
CREATE SCHEMA replica;
IMPORT FOREIGN SCHEMA public LIMIT TO (country, subdivision, language)
    FROM SERVER replica INTO replica;

-- Compares the tables of both databases, row by row, in the master's; the
-- replica's are seen through postgres_fdw.

CREATE TEMP VIEW comparison AS
    SELECT 'country' AS master,
           (SELECT count(*) FROM country) AS rows,
           (SELECT count(*) FROM replica.country) AS replica_rows,
           (SELECT count(*) FROM (TABLE country EXCEPT TABLE replica.country) AS d) AS only_master,
           (SELECT count(*) FROM (TABLE replica.country EXCEPT TABLE country) AS d) AS only_replica
    UNION ALL
    SELECT 'subdivision',
           (SELECT count(*) FROM subdivision),
           (SELECT count(*) FROM replica.subdivision),
           (SELECT count(*) FROM (TABLE subdivision EXCEPT TABLE replica.subdivision) AS d),
           (SELECT count(*) FROM (TABLE replica.subdivision EXCEPT TABLE subdivision) AS d)
    UNION ALL
    SELECT 'language',
           (SELECT count(*) FROM language),
           (SELECT count(*) FROM replica.language),
           (SELECT count(*) FROM (TABLE language EXCEPT TABLE replica.language) AS d),
           (SELECT count(*) FROM (TABLE replica.language EXCEPT TABLE language) AS d);

TABLE comparison;

SELECT bool_and(rows > 0 AND rows = replica_rows AND only_master = 0 AND only_replica = 0)
           AS equal
FROM comparison
\gset
\if :equal
\echo 'Replica and master are equal, row by row.'
\else
\echo 'Replica and master DIFFER.'
DO $$ BEGIN RAISE 'replica and master differ'; END $$;
\endif

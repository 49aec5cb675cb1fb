"""A table of PostgreSQL that follows a master in Python: loads and comparisons
with the master's own management commands."""

from harness import ReplicaTest, master, pipeline

PREPARE = """
    CREATE TABLE copy (LIKE plain INCLUDING ALL);
    SELECT cqrs_register_replica('copy', 'plain');
    INSERT INTO plain (id, name) SELECT i, E'a/\\u00e9"\\\\' || i
        FROM generate_series(1, 25) AS i"""


class ReplicaInSql(ReplicaTest):
    def setUp(self):
        super().setUp()
        master.run(PREPARE)
        self.addCleanup(master.run, "DROP TABLE copy")

    def assert_copied(self):
        self.assertEqual(master.rows("copy"), master.rows("plain"))

    def test_load_of_a_python_dump(self):
        pipeline(r"""
            env INTEROP_ROLE=master INTEROP_DB=master $manage cqrs_bulk_dump \
                --cqrs-id=plain --output=python.dump --force >/dev/null
            $psql <<'END'
\set dump `cat python.dump`
CALL cqrs_bulk_load(string_to_array(:'dump', E'\n'));
END""")
        self.assert_copied()

    def test_comparison_with_a_python_master(self):
        master.run("INSERT INTO copy SELECT * FROM plain WHERE id <> 3;"
                   "UPDATE copy SET cqrs_revision = 9 WHERE id = 5;"
                   "INSERT INTO copy (id, name, cqrs_revision, cqrs_updated)"
                   " VALUES (99, 'lost', 0, '2026-01-01')")
        answer = pipeline(r"""
            django="env INTEROP_ROLE=master INTEROP_DB=master $manage"
            $django cqrs_diff_master --cqrs-id=plain --batch=10 >rows
            $psql >diff <<'END'
\set rows `cat rows`
SELECT cqrs_diff_replica(string_to_array(:'rows', E'\n'));
END
            $django cqrs_diff_sync <diff >/dev/null
            sed 1d diff""")
        self.assertEqual(sorted(answer.split()), ["[3,5]"])
        pipeline(r"""
            django="env INTEROP_ROLE=master INTEROP_DB=master $manage"
            $psql -c "SELECT cqrs_deleted_diff_replica('plain', batch => 10)" |
                $django cqrs_deleted_diff_master >gone
            $psql <<'END'
\set gone `cat gone`
SELECT cqrs_deleted_sync_replica(string_to_array(:'gone', E'\n'));
END""")
        # What was asked for again goes to the queue, which nobody reads here.
        master.run("INSERT INTO copy SELECT * FROM plain WHERE id = 3")
        self.assertEqual(master.rows("copy", "id"), master.rows("plain", "id"))

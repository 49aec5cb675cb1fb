"""Tables of PostgreSQL that follow a master in Python: messages, and loads and
comparisons with the master's own management commands."""

import re
import time

from django.conf import settings
from master.models import Country, Marker, Plain, Signal, Types

from harness import ReplicaTest, master, pipeline, python, wait_for
from test_vectors import VECTORS, change, several

PREPARE = """
    CREATE TABLE copy (LIKE plain INCLUDING ALL);
    SELECT cqrs_register_replica('copy', 'plain');
    INSERT INTO plain (id, name) SELECT i, E'a/\\u00e9"\\\\' || i
        FROM generate_series(1, 25) AS i"""


class PythonMaster(ReplicaTest):
    """All that django-cqrs's own master sends arrives, as in a replica of Django's.

    Before 3.1.0 a master opens a connection for each SAVE and DELETE, and has
    another one for all SYNC.  So a SYNC can overtake the SAVE before it: the
    tests settle() between them.
    """

    companion = "copy"
    master = python

    def setUp(self):
        self.addCleanup(settings.CQRS.update, exchange="python")
        settings.CQRS["exchange"] = "cqrs"
        super().setUp()
        # Django's master sends nothing of TRUNCATE.
        self.empty_followers()

    def mark(self, number):
        Marker.objects.create(id=number)

    def check(self, steps):
        for by_python, _ in steps:
            by_python()
            self.settle()
        # A condition that is_sync_instance() has filtered by.
        self.assert_equal(expected=["Lost or filtered out"])
        kept = "SELECT id, previous, meta FROM author ORDER BY id"
        self.assertEqual(self.copy.database.run(kept), self.replica.database.run(kept))

    def seen(self):
        return self.copy.database.run(
            "SELECT signal, name, gone, meta FROM signal_taken ORDER BY id")

    def test_no_database_operations(self):
        Signal.objects.create(id=1, name="one")
        change(Signal, 1, name="two")
        self.settle()
        Signal.objects.get(pk=1).cqrs_sync()
        self.settle()
        Signal.objects.get(pk=1).delete()
        self.settle()
        self.assertEqual(
            [(signal, name) for signal, name, _, _ in self.seen()],
            [("SAVE", "one"), ("SAVE", "two"), ("SYNC", "two"), ("DELETE", None)])

    def test_only_direct_syncs(self):
        """A SYNC to this queue alone is applied; to the library it looks like
        one to all."""
        Country.objects.create(code="DE", name="Germany")
        self.settle()
        self.copy.database.run("DELETE FROM country")
        Country.objects.get(pk="DE").cqrs_sync()
        self.settle()
        self.assertEqual(self.copy.database.rows("country"), [])
        Country.objects.get(pk="DE").cqrs_sync(queue="copy")
        self.assert_equal()

    def test_many(self):
        Plain.cqrs.bulk_create([Plain(id=i, name="row") for i in range(300)])
        Plain.cqrs.bulk_update(Plain.objects.filter(id__lt=200), name="x")
        several(*[row.delete for row in Plain.objects.filter(id__gt=150)])
        for number in range(30):
            change(Plain, 1, number=number)
        self.assert_equal()

    def test_not_a_number(self):
        """What is no JSON."""
        Types.objects.create(id=1, real=float("nan"))
        Types.objects.create(id=2, real=float("-inf"))
        wait_for(lambda: self.copy.database.rows("types") == python.rows("types"),
                 "the rows")
        python.run("TRUNCATE types")
        self.empty_followers()
        self.settle()
        self.replica.complaints()

    def test_expired(self):
        ttl = settings.CQRS["master"]["CQRS_MESSAGE_TTL"]
        self.addCleanup(settings.CQRS["master"].update, CQRS_MESSAGE_TTL=ttl)
        copy = self.copy.database
        copy.run("SELECT cqrs_pause_consumer()")
        self.copy.wait("paused")
        settings.CQRS["master"]["CQRS_MESSAGE_TTL"] = 1
        Plain.objects.create(id=1, name="late")
        settings.CQRS["master"]["CQRS_MESSAGE_TTL"] = ttl
        sent = time.time()
        # "expires" has no fraction of a second.
        wait_for(lambda: time.time() > sent + 1, "the message to expire")
        copy.run("SELECT cqrs_resume_consumer()")
        self.settle()
        self.assertEqual(copy.run("SELECT cqrs_id, error FROM cqrs.dead_letters"),
                         [("plain", "the message has expired")])
        copy.run("SELECT cqrs_retry_failed()")
        wait_for(lambda: copy.rows("plain") == python.rows("plain"), "the letter")
        self.assertEqual(self.copy.failures(), [])
        # Django's worker may have been in time, or not.
        self.assert_log(["added to dead letter queue"])

    def test_failures(self):
        """A failed message does not hold others back, and is tried again."""
        copy = self.copy.database
        copy.run("ALTER TABLE plain ADD CONSTRAINT good CHECK (name <> 'bad')")
        self.addCleanup(copy.run, "ALTER TABLE plain DROP CONSTRAINT IF EXISTS good")
        Plain.objects.create(id=1, name="bad")
        Plain.objects.create(id=2, name="good")
        wait_for(lambda: copy.rows("plain") and self.copy.failures(), "a failure")
        self.assertEqual(copy.rows("plain", "id"), ['{"id": 2}'])
        copy.run("ALTER TABLE plain DROP CONSTRAINT good")
        wait_for(lambda: not self.copy.failures(), "the retry")
        self.assert_equal()

    def test_loads(self):
        for by_python, _ in (*VECTORS["types"], *VECTORS["keys"][:1],
                             *VECTORS["serializer"][:1],
                             *VECTORS["fields, foreign key, filter, delete data"][:1]):
            by_python()
        self.settle()
        for name in ("types", "country", "shelf", "author", "book"):
            self.copy.database.run(f"DELETE FROM {name}")
            pipeline(rf"""
                env INTEROP_ROLE=master INTEROP_DB=python $manage cqrs_bulk_dump \
                    --cqrs-id={name} --output=python.dump --force >/dev/null
                $psql -d copy <<'END'
\set dump `cat python.dump`
CALL cqrs_bulk_load(string_to_array(:'dump', E'\n'));
END""")
        self.assert_equal()


for name, steps in VECTORS.items():
    setattr(PythonMaster, "test_" + re.sub(r"\W+", "_", name),
            lambda self, steps=steps: self.check(steps))


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

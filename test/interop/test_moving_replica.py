"""A service moves its replicas from Django into its database, and back, while
masters of both kinds are written: the steps of docs/from-django-cqrs.md."""

import uuid

from django.conf import settings
from master.models import Token

from harness import (HERE, Database, ReplicaTest, SqlReplica, TABLES, broker,
                     manage, master, pipeline, python, queue_state, resync,
                     wait_for)
from test_flows import FAILURE
from test_moving import Writers

CHANGES = (
    "INSERT INTO plain (id, name) VALUES (%(key)s, %(name)s)"
    " ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    "INSERT INTO author (id, name) VALUES (%(key)s, %(name)s)"
    " ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    "INSERT INTO shelf (id, label) VALUES (%(key)s, %(name)s)"
    " ON CONFLICT (id) DO UPDATE SET label = excluded.label",
    "DELETE FROM shelf WHERE id = %(key)s",
    "INSERT INTO types (id, text) SELECT coalesce(max(id), 0) + 1, %(name)s FROM types"
    " ON CONFLICT DO NOTHING",
)
# What a consumer may log that takes a queue over, because the broker delivers
# messages again.  Not "Lost or filtered out".
AGAIN = ["Received duplicate CQRS data", "Wrong CQRS sync order",
         "potential creation race condition"]
REFUSED = ["AMQP connection error", "^Traceback", "^  ", "^$", "^pika",
           "ACCESS_REFUSED"]


def by_sql(source, cursor):
    # Not faster than a worker of Django's can follow.
    cursor.execute("SELECT pg_sleep(0.03)")
    cursor.execute(source.choice(CHANGES),
                   {"key": source.randint(1, 20), "name": str(source.random())})


def by_django(source, _):
    row, _ = Token.objects.get_or_create(id=uuid.UUID(int=source.randint(1, 20)))
    row.note = str(source.random())
    row.save()


class MovingReplica(ReplicaTest):
    def setUp(self):
        super().setUp()
        self.addCleanup(settings.CQRS.update, exchange="python")
        settings.CQRS["exchange"] = "cqrs"
        self.empty_followers()
        self.database = self.replica.database
        self.sql = SqlReplica("replica")
        self.reader = Database("replica")
        self.reader.run("SET statement_timeout = '5s'")
        self.addCleanup(self.remove)

    def remove(self):
        """All that was made in the replica's database."""
        self.database.run("DROP TRIGGER IF EXISTS keep_message ON author;"
                          "DROP FUNCTION IF EXISTS keep_message;"
                          "DROP TABLE IF EXISTS signal_taken;"
                          "DROP EXTENSION IF EXISTS cqrs CASCADE")

    def read(self, *_):
        """What users of the replica do all the time."""
        if self.reader.value("SELECT count(*) FROM plain") == 0:
            raise AssertionError("the replica is empty")

    def writers(self):
        return Writers(by_sql, by_sql, by_django, self.read)

    def assert_both_equal(self, expected=()):
        """Token is of the master in Python, all others of that in SQL."""
        self.assert_equal([name for name in TABLES if name != "token"], expected)
        wait_for(lambda: self.database.rows("token") == python.rows("token"),
                 "the rows of the master in Python")

    def test_there_and_back(self):
        master.run("INSERT INTO plain (id, name) VALUES (900, 'fail 9'), (901, 'good')")
        wait_for(lambda: queue_state("dead_letter_replica").get("messages"),
                 "a dead letter")
        with self.writers() as writers:
            writers.go_on()
            self.move()
            writers.go_on()
        self.assertEqual(writers.errors, [])
        self.assert_both_equal(FAILURE + AGAIN)
        self.assertEqual(self.sql.failures(), [])
        # The worker's channel cancels its consumer before it gives messages back
        # (pika), and later ones may have been applied by then.
        self.assertLessEqual(self.sql.state("gaps"), self.sql.state("outdated"))
        self.assertEqual(self.sql.state("unknown"), 0)
        self.assertGreater(self.sql.state("updated"), 0)

        with self.writers() as writers:
            writers.go_on()
            self.move_back()
            writers.go_on()
        self.assertEqual(writers.errors, [])
        self.settle()
        resync("plain")
        self.assert_both_equal(AGAIN + REFUSED)
        self.remove()
        with self.writers() as writers:
            writers.go_on()
        self.assertEqual(writers.errors, [])
        self.assert_both_equal()

    def move(self):
        # Steps 1 and 2.
        self.database.run("CREATE EXTENSION cqrs")
        pipeline(f"psql -X -q -v ON_ERROR_STOP=1 -d replica -f {HERE}/replicas.sql")
        self.assertEqual(
            self.database.run("SELECT * FROM cqrs_check() WHERE item LIKE 'replica %'"
                              " AND status <> 'ok'"), [])
        # 3: the consumer waits for the worker to end.
        self.database.run("SELECT cqrs_consume('replica')")
        wait_for(lambda: "in exclusive use" in (self.sql.state("last_error") or ""),
                 "the consumer to ask for the queue")
        # 4
        self.replica.end()
        self.sql.wait("consuming")
        # 5
        manage("replica", "cqrs_dead_letters", "retry")
        wait_for(lambda: self.database.run("SELECT 1 FROM plain WHERE id = 900"),
                 "the dead letter")
        wait_for(lambda: queue_state("dead_letter_replica").get("messages") == 0,
                 "no dead letters")
        broker.queue_delete("dead_letter_replica")

    def move_back(self):
        # 1: the worker waits for the consumer to end.
        self.replica.start()
        wait_for(lambda: "ACCESS_REFUSED" in self.replica.log.read_text(),
                 "the worker to ask for the queue")
        # A message that waits for a retry is not in the queue.
        self.database.run("ALTER TABLE plain ADD CONSTRAINT good CHECK (name <> 'bad')")
        master.run("UPDATE plain SET name = 'bad' WHERE id = 901")
        wait_for(self.sql.failures, "a failure")
        self.database.run("ALTER TABLE plain DROP CONSTRAINT good")
        # 2
        before = len(self.replica.lines())
        self.sql.stop()
        wait_for(lambda: any("CQRS is received" in line
                             for line in self.replica.lines()[before:]),
                 "the worker to take messages")

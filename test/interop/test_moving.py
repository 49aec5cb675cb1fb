"""A Django application moves its master into the database, and back, while it
is written to: the steps of docs/from-django-cqrs.md."""

import json
import random
import threading

import psycopg2
import ujson
from django.conf import settings
from django.db import connections
from master.models import Author, Book, Plain, PlainAlone, Types

from harness import (ReplicaTest, Tap, body, manage, master, pipeline,
                     published, resync, wait_for)
from test_flows import ALL_TYPES

DUPLICATES = ["Received duplicate CQRS data", "Wrong CQRS sync order",
              "potential creation race condition", "Lost or filtered out"]


class Writers:
    """Threads that go on changing rows, by Django and by SQL, until they are
    stopped at the end of `with`.  SQL is not ahead of a slow Django without end: a
    replica in Django would not take in minutes what is sent."""

    MOST, TIMES = 300, 30

    def __init__(self, *ones):
        ones = ones or (self.django, self.django, self.sql)
        self.changed = threading.Condition()
        self.stopped = False
        self.errors = []
        self.counts = [0] * len(ones)
        self.threads = [
            threading.Thread(target=self.work, args=(i, one))
            for i, one in enumerate(ones)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()

    def work(self, number, one):
        source = random.Random(number)
        connection = psycopg2.connect(dbname="master")
        connection.autocommit = True
        try:
            while self.may_go_on(number):
                one(source, connection.cursor())
                with self.changed:
                    self.counts[number] += 1
                    self.changed.notify_all()
        except Exception as error:
            with self.changed:
                self.errors.append(error)
                self.changed.notify_all()
        finally:
            connections.close_all()
            connection.close()

    def may_go_on(self, number):
        """Waits for writers that are behind; false at the end."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.stopped or self.errors or
                self.counts[number] < self.MOST + self.TIMES * min(self.counts))
            return not (self.stopped or self.errors)

    def go_on(self):
        """Waits until each writer has made some more changes."""
        target = [count + 10 for count in self.counts]
        wait_for(lambda: self.errors or all(
            count >= wanted for count, wanted in zip(self.counts, target)),
            "the writers")

    @staticmethod
    def django(source, _):
        key = source.randint(1, 12)
        row = Plain.objects.using("shared").filter(pk=key).first()
        if row is None:
            return
        row.number = source.randint(1, 1000)
        row.save()

    @staticmethod
    def sql(source, cursor):
        cursor.execute("UPDATE plain SET name = %s WHERE id = %s",
                       (f"sql {source.random()}", source.randint(1, 12)))


class Moving(ReplicaTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tap = Tap("cqrs")

    def setUp(self):
        super().setUp()
        self.addCleanup(self.produce, True)
        self.addCleanup(settings.CQRS.update, exchange="python")
        settings.CQRS["exchange"] = "cqrs"
        self.tap.read_to_end()

    @staticmethod
    def produce(by_extension=None, by_django=True):
        if by_extension is not None:
            master.run("SELECT cqrs_alter('plain', jsonb_build_object('produce', %s))",
                       by_extension)
        Plain.CQRS_PRODUCE = by_django

    def check_revisions(self, messages):
        """Of each row, this extension's revisions only grow; returns the
        last ones."""
        last = {}
        for message in messages:
            data = body(message)
            if message[0] != "plain" or data["signal_type"] != "SAVE":
                continue
            if message[1].message_id is None:
                continue
            key = data["instance_pk"]
            revision = data["instance_data"]["cqrs_revision"]
            self.assertGreater(revision, last.get(key, -1), f"row {key}")
            last[key] = revision
        return last

    def test_there_and_back(self):
        # Steps 1 and 2: registered, but silent.
        master.run("SELECT cqrs_unregister('plain')")
        master.run("SELECT cqrs_register('plain', produce => false)")
        master.run("INSERT INTO plain (id, name) SELECT i, 'row'"
                   " FROM generate_series(1, 12) AS i")
        with Writers() as writers:
            writers.go_on()
            # 4: both publish.
            self.produce(True, True)
            writers.go_on()
            # 5: Django does not any more.
            Plain.CQRS_PRODUCE = False
            writers.go_on()
        self.assertEqual(writers.errors, [])
        # 6: what was changed past Django before, or was lost.
        self.resync()
        self.assert_equal(expected=DUPLICATES + ["downgrade"])
        self.check_revisions(self.tap.read_to_end())

        # From here on replicas see one message for each change.
        with Writers() as writers:
            writers.go_on()
        self.assertEqual(writers.errors, [])
        self.assert_equal()
        sent = self.check_revisions(self.tap.read_to_end())
        rows = dict(master.run("SELECT id, cqrs_revision FROM plain"))
        self.assertEqual({key: rows[key] for key in sent}, sent)

        # The way back: Django publishes, then this extension does not.
        with Writers() as writers:
            Plain.CQRS_PRODUCE = True
            writers.go_on()
            self.produce(False, True)
            writers.go_on()
        self.assertEqual(writers.errors, [])
        published()
        self.resync_by_django()
        self.assert_equal(expected=DUPLICATES + ["downgrade"])
        self.check_without_extension()

    def check_without_extension(self):
        """Unregistered, Django's master has the table to itself again."""
        master.run("SELECT cqrs_unregister('plain')")
        self.addCleanup(master.run, "SELECT cqrs_register('plain')")
        row = Plain.objects.using("shared").get(pk=1)
        row.name = "by Django alone"
        row.save()
        # What this extension sends does not wait for what Django sends.
        wait_for(lambda: self.replica.database.run(
            "SELECT 1 FROM plain WHERE name = %s", row.name), "Django's message")
        self.assert_equal()

    def resync(self):
        """Both pipelines of differences."""
        self.settle()
        resync("plain")

    def resync_by_django(self):
        """The same with Django's commands for the master; one row is beyond
        them, because its revision is equal."""
        self.replica.database.run(
            "DELETE FROM plain WHERE id = 2;"
            "UPDATE plain SET name = 'wrong' WHERE id = 3;"
            "INSERT INTO plain (id, name, cqrs_revision, cqrs_updated)"
            " VALUES (99, 'lost', 0, now())")
        pipeline(r"""
            django="env INTEROP_ROLE=master INTEROP_DB=master $manage"
            $django cqrs_diff_master --cqrs-id=plain |
                $manage cqrs_diff_replica | $django cqrs_diff_sync
            $manage cqrs_deleted_diff_replica --cqrs-id=plain |
                $django cqrs_deleted_diff_master |
                $manage cqrs_deleted_sync_replica""")
        manage("master", "cqrs_sync", "--cqrs-id=plain", '--filter={"id": 3}')

    def test_model_without_mixin(self):
        """Step 7: Django writes a table that is no master of its own."""
        self.produce(True, False)
        rows = PlainAlone.objects.using("shared")
        PlainAlone(id=1, name="a").save(using="shared")
        stale = rows.get(pk=1)
        for name in ("b", "c"):
            row = rows.get(pk=1)
            row.name = name
            row.save(using="shared")
        self.assert_equal()
        stale.name = "d"
        stale.save(using="shared")
        self.assertEqual(master.run("SELECT name, cqrs_revision FROM plain"),
                         [("d", 3)])
        rows.bulk_create([PlainAlone(id=2, name="e"), PlainAlone(id=3, name="f")])
        rows.filter(pk__gt=1).update(number=7)
        rows.get(pk=3).delete(using="shared")
        self.assert_equal()
        self.assertEqual(
            [(m["signal_type"], m["instance_pk"], m["instance_data"]["cqrs_revision"])
             for m in map(body, self.tap.read_to_end())
             if m["cqrs_id"] == "plain"],
            [("SAVE", 1, 0), ("SAVE", 1, 1), ("SAVE", 1, 2), ("SAVE", 1, 3),
             ("SAVE", 2, 0), ("SAVE", 3, 0), ("SAVE", 2, 1), ("SAVE", 3, 1),
             ("DELETE", 3, 2)])

    def test_revisions_of_django_are_left_alone(self):
        self.produce(True, False)
        row = Plain(id=1, name="a")
        row.save(using="shared")
        row.name = "b"
        row.save(using="shared")
        Plain.objects.using("shared").update(name="c")
        row.number = 1
        row.save(using="shared", update_fields=["number"])
        self.assertEqual(master.run("SELECT cqrs_revision FROM plain"), [(3,)])
        row.refresh_from_db(using="shared")
        row.delete(using="shared")
        published()
        self.assertEqual(
            [(m["signal_type"], m["instance_data"]["cqrs_revision"])
             for m in map(body, self.tap.read_to_end())
             if m["cqrs_id"] == "plain"],
            [("SAVE", 0), ("SAVE", 1), ("SAVE", 2), ("SAVE", 3), ("DELETE", 4)])

    def test_cqrs_to_json_is_to_cqrs_dict(self):
        """How the masters are compared before the first message is sent."""
        master.run(ALL_TYPES.replace("'NaN'", "NULL")
                   .replace("'-Infinity'", "0"))
        master.run("INSERT INTO author (id, name) VALUES (1, 'Ada');"
                   "INSERT INTO book (id, title, author_id) VALUES (1, 'N', 1)")
        for model in (Author, Book, Types):
            for row in model.objects.using("shared").all():
                here = master.value(
                    f"SELECT cqrs_to_json(t, '{model.CQRS_ID}')::text"
                    f" FROM {model._meta.db_table} t WHERE"
                    f" {model._meta.pk.column} = %s", row.pk)
                self.assertEqual(json.loads(here),
                                 json.loads(ujson.dumps(row.to_cqrs_dict("shared"))))

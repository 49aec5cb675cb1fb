"""What the tests of interoperation share: databases, replicas, queues.

Run by test/interop/run in a virtual environment with django-cqrs, with
PostgreSQL and RabbitMQ running.  Databases:

    master   published by this extension
    python   the same tables, published by django-cqrs's own master
    replica  filled by `manage.py cqrs_consume`
    copy     the same tables, filled by this extension's consumer
    kombu    the same with KombuTransport
    redis    the same over Redis

This process itself is the Django service with the Python master: its models
write to "python", and under the alias "shared" to "master".
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import django
import pika
import psycopg2

HERE = Path(__file__).parent
WORK = Path(os.environ["INTEROP_WORK"])
URL = os.environ["INTEROP_URL"]
TIMEOUT_S = 120

os.environ.update(
    DJANGO_SETTINGS_MODULE="project.settings",
    INTEROP_ROLE="master",
    INTEROP_DB="python",
    INTEROP_SHARED_DB="master",
    INTEROP_EXCHANGE="python",
)
django.setup()

# Of each table: what it has in a replica, and the same in the master.
TABLES = {
    name: ("*", "*") for name in ("plain", "country", "token", "types",
                                  "strange", "shelf")
}
TABLES["author"] = ("id, name, born, cqrs_revision, cqrs_updated",) * 2
TABLES["book"] = (
    "number AS id, name AS title, writer AS author_id, cqrs_revision,"
    " cqrs_updated",
    "id, title, author_id, cqrs_revision, cqrs_updated",
)


def wait_for(condition, what):
    """Returns the first true result of a function."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


class Database:
    """A connection that commits each statement."""

    def __init__(self, name):
        self.name = name
        self.connection = psycopg2.connect(dbname=name)
        self.connection.autocommit = True

    def run(self, sql, *parameters):
        """Runs commands and returns the rows of the last one."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else None

    def value(self, sql, *parameters):
        return self.run(sql, *parameters)[0][0]

    def rows(self, table, columns="*"):
        return [row for row, in self.run(
            f"SELECT to_jsonb(t)::text FROM (SELECT {columns} FROM {table}) AS t"
            " ORDER BY 1")]


# Brokers of roles that do not use that of INTEROP_URL.
URLS = {}


def environment(role):
    result = {k: v for k, v in os.environ.items() if k != "INTEROP_SHARED_DB"}
    result.update(INTEROP_ROLE=role, INTEROP_EXCHANGE="cqrs",
                  INTEROP_DB=role, INTEROP_URL=URLS.get(role, URL))
    return result


def manage(role, *arguments, stdin=""):
    """Runs a management command and returns its standard output."""
    done = subprocess.run(
        [sys.executable, HERE / "manage.py", *arguments], input=stdin,
        capture_output=True, text=True, env=environment(role))
    if done.returncode != 0:
        raise AssertionError(f"manage.py {arguments}: {done.stderr}")
    return done.stdout


def pipeline(command, role="replica"):
    """Runs a pipeline of the shell, in which $manage is a replica's manage.py
    and $psql one for the master."""
    done = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", command], text=True,
        capture_output=True, cwd=WORK,
        env={**environment(role), "PGDATABASE": "master",
             "manage": f"{sys.executable} {HERE / 'manage.py'}",
             "psql": "psql -X -A -t -v ON_ERROR_STOP=1"})
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.stderr}")
    return done.stdout


class Replica:
    """A service with replicas, and its consumer process."""

    def __init__(self, role):
        self.role = role
        self.database = Database(role)
        self.log = WORK / f"{role}.log"
        self.log.touch()
        self.seen = 0
        self.process = None

    def start(self):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, HERE / "manage.py", "cqrs_consume"],
                stdout=log, stderr=log, env=environment(self.role))
        wait_for(
            lambda: self.is_consuming() or self.process.poll() is not None,
            f"{self.role} to consume")

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(TIMEOUT_S) != 0:
            raise AssertionError(f"{self.role} ended with an error")

    def stop(self):
        self.end()
        wait_for(lambda: not self.is_consuming(), f"{self.role} to end")

    def is_consuming(self):
        return queue_state(self.role).get("consumers")

    def lines(self):
        return self.log.read_text().splitlines()

    def complaints(self):
        """Warnings and worse since the last call."""
        lines = self.lines()[self.seen:]
        self.seen += len(lines)
        return [line for line in lines
                if not line.startswith(("INFO ", "DEBUG "))]


class SqlReplica:
    """A database whose tables follow masters by this extension: replicas.sql."""

    def __init__(self, role):
        self.role = role
        self.database = Database(role)

    def start(self):
        self.database.run("SELECT cqrs_consume(%s)", self.role)
        self.wait("consuming")

    def stop(self, drop_queue=False):
        self.database.run("SELECT cqrs_stop_consuming(%s)", drop_queue)
        self.wait("stopped")

    def wait(self, state):
        wait_for(lambda: self.state("state") == state, f"{self.role} to be {state}")

    def state(self, column):
        return self.database.value(f"SELECT {column} FROM cqrs.consumer_stats")

    def failures(self):
        return self.database.run(
            "SELECT cqrs_id, instance_pk, error FROM cqrs.failed")


broker_connection = pika.BlockingConnection(
    pika.URLParameters(URL + "/%2F?heartbeat=0"))
broker = broker_connection.channel()


def queue_state(queue):
    """Counts of messages and consumers; empty when there is no queue."""
    channel = broker_connection.channel()
    try:
        method = channel.queue_declare(queue, passive=True).method
        channel.close()
        return {"messages": method.message_count,
                "consumers": method.consumer_count}
    except pika.exceptions.ChannelClosedByBroker:
        return {}


class Tap:
    """A queue that gets all that is sent to an exchange."""

    def __init__(self, exchange):
        self.queue = f"tap_{exchange}"
        broker.exchange_declare(exchange, "topic", durable=True)
        broker.queue_declare(self.queue)
        broker.queue_bind(self.queue, exchange, "#")
        self.read_to_end()

    def read_to_end(self):
        """Messages as (routing key, properties, body)."""
        messages = []
        while True:
            method, properties, body = broker.basic_get(self.queue, True)
            if method is None:
                return messages
            messages.append((method.routing_key, properties,
                             body.decode("utf-8")))


master = Database("master")
python = Database("python")
marks = itertools.count(1)


def published():
    """Waits until the broker has confirmed all that was committed."""
    wait_for(lambda: master.value("SELECT pending = 0 FROM cqrs.stats"),
             "the outbox to drain")


def empty_tables():
    names = ", ".join([*TABLES, "signal", "marker"])
    for database in (master, python):
        database.run(f"TRUNCATE {names}")


def resync(table):
    """Both pipelines of differences, between this extension's master and a
    replica in Django."""
    pipeline(rf"""
        $psql -c "SELECT cqrs_diff_master('{table}')" |
            $manage cqrs_diff_replica >diff
        $psql <<'END'
\set diff `cat diff`
SELECT cqrs_diff_sync(string_to_array(:'diff', E'\n'));
END
        $manage cqrs_deleted_diff_replica --cqrs-id={table} >keys
        $psql <<'END' | $manage cqrs_deleted_sync_replica
\set keys `cat keys`
SELECT cqrs_deleted_diff_master(string_to_array(:'keys', E'\n'));
END""")


class ReplicaTest(unittest.TestCase):
    """Tests with a replica that runs, and tables that are empty."""

    role = "replica"
    replica_class = Replica
    # A database with replicas in SQL that follows the same master.
    companion = None
    master = master
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        for queue in (cls.role, f"dead_letter_{cls.role}"):
            broker.queue_delete(queue)
        cls.replica = cls.replica_class(cls.role)
        cls.followers = [cls.replica.database]
        if cls.companion:
            cls.copy = SqlReplica(cls.companion)
            cls.followers.append(cls.copy.database)
        cls.empty_followers()
        cls.replica.start()
        cls.addClassCleanup(
            lambda: cls.replica.process.poll() is None and cls.replica.stop())
        if cls.companion:
            cls.copy.start()
            cls.addClassCleanup(cls.copy.stop, drop_queue=True)

    @classmethod
    def empty_followers(cls):
        for database in cls.followers:
            database.run("TRUNCATE " + ", ".join([*TABLES, "marker"]))

    def setUp(self):
        if self.replica.process.poll() is not None:
            self.replica.start()
        empty_tables()
        self.settle()
        self.replica.complaints()
        if self.companion:
            self.copy.database.run("DELETE FROM cqrs.failed; TRUNCATE signal_taken")

    def tearDown(self):
        """What no test has expected."""
        self.settle()
        self.assert_log()

    def settle(self):
        """Waits until the replica has taken all that was committed."""
        published()
        mark = next(marks)
        self.mark(mark)
        for database in self.followers:
            wait_for(
                lambda: database.run("SELECT 1 FROM marker WHERE id = %s", mark),
                f"{database.name} to take all messages")

    def mark(self, number):
        master.run("INSERT INTO marker (id) VALUES (%s)", number)

    def assert_equal(self, tables=TABLES, expected=(), settle=True):
        """The rows of all that follow are the master's, and the replica's log
        has nothing but what is expected."""
        if settle:
            self.settle()
        for table in tables:
            replica_columns, master_columns = TABLES[table]
            rows = self.master.rows(table, master_columns)
            for database in self.followers:
                self.assertEqual(database.rows(table, replica_columns), rows,
                                 f"{table} in {database.name}")
        if self.companion:
            self.assertEqual(self.copy.failures(), [])
        self.assert_log(expected)

    def assert_log(self, expected=()):
        left = [line for line in self.replica.complaints()
                if not any(re.search(e, line) for e in expected)]
        self.assertEqual(left, [])


def body(message):
    return json.loads(message[2])

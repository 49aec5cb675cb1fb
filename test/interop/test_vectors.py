"""The same changes, by Django's models and by SQL, give the same messages.

Each vector is a piece of Python for the models, on the database that
django-cqrs's own master publishes, and of SQL for the one that this extension
publishes.  Messages are compared key by key, in their order, with routing key
and AMQP properties.  What differs on purpose is in Differences, and in
docs/wire-format.md.
"""

import datetime
import json
import re
import unittest
import uuid
from decimal import Decimal

from django.db import transaction
from master.models import (Author, Book, Country, Marker, Plain, Shelf,
                           Strange, Token, Types)

from harness import Tap, empty_tables, master, published, wait_for

TIMES = {
    "cqrs_updated": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?\+00:00",
    "expires": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00",
}


def undated(data):
    """The same with the form of times in the place of times."""
    return {
        key: TIMES[key]
        if key in TIMES and re.fullmatch(TIMES[key], value or "") else value
        for key, value in data.items()
    }


def comparable(message):
    routing_key, properties, text = message
    data = json.loads(text)
    # With '__all__', Django does not know yet what it will fill in itself.
    if isinstance(data["previous_data"], dict):
        data["previous_data"].pop("cqrs_updated", None)
        text = json.dumps(data)
    return {
        "routing_key": routing_key,
        "content_type": properties.content_type,
        "delivery_mode": properties.delivery_mode,
        "headers": properties.headers,
        "keys": list(data),
        "keys of instance_data": list(data["instance_data"]),
        "body": json.loads(text, object_hook=undated),
    }


def create_types():
    Types.objects.create(
        id=1, small=-32768, whole=-2147483648, big=-2**63, real=-1.5e-300,
        numeric=Decimal("-0.5"), flag=False, text='a "b" \\ / \n\t\x01 ä\U0001F600',
        short="", day=datetime.date(1, 1, 1),
        moment=datetime.datetime(2024, 2, 29, 1, 2, 3, 456789,
                                 datetime.timezone.utc),
        uid=uuid.UUID("11111111-2222-3333-4444-55555555555a"),
        data={"a": True, "b": [1, 2.5, None, {"c": "\u20ac"}]},
        numbers=[1, None, -3], words=[["a", "b"], ["c", 'd "e"']],
        pairs={"a": "1", "b": None, "c d": "e"}, address="192.168.0.1")
    Types.objects.create(id=2)
    Types.objects.create(
        id=3, small=1, whole=0, big=2**63 - 1, real=3.0,
        numeric=Decimal("123456789.125"), flag=True, text="", short="x",
        day=datetime.date(9999, 12, 31),
        moment=datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc),
        uid=uuid.UUID(int=0), data=[], numbers=[], words=[], pairs={},
        address="2001:db8::ff")


def change(model, key, **values):
    row = model.objects.get(pk=key)
    for name, value in values.items():
        setattr(row, name, value)
    row.save()


def several(*changes):
    with transaction.atomic():
        for one in changes:
            one()


def twice(first, second):
    """Two saves of one object in a transaction."""
    row = Author.objects.get(pk=1)
    with transaction.atomic():
        row.name = first
        row.save()
        row.name = second
        row.save()


def rolled_back():
    Plain.objects.create(id=9, name="x")
    raise ValueError


def failing_transaction():
    try:
        several(rolled_back)
    except ValueError:
        pass


ADA = "INSERT INTO author (id, name, born) VALUES (1, 'Ada', '1815-12-10')"
NOTES = "INSERT INTO book (id, title, price, author_id) VALUES (1, 'Notes', 9.5, 1)"


def ada():
    Author.objects.create(id=1, name="Ada", born=datetime.date(1815, 12, 10))


def notes():
    ada()
    Book.objects.create(id=1, title="Notes", price=Decimal("9.5"), author_id=1)


def plain():
    Plain.objects.create(id=1, name="one", number=1)


PLAIN = "INSERT INTO plain (id, name, number) VALUES (1, 'one', 1)"
TOKEN = "11111111-2222-3333-4444-55555555555a"

# By name: steps, each in Python and in SQL.
VECTORS = {
    "create": ((plain, PLAIN),),
    "create null": ((lambda: Plain.objects.create(id=2, name="two"),
                     "INSERT INTO plain (id, name) VALUES (2, 'two')"),),
    "update": (
        (plain, PLAIN),
        (lambda: change(Plain, 1, name="x", number=None),
         "UPDATE plain SET name = 'x', number = NULL"),
        (lambda: change(Plain, 1), "UPDATE plain SET name = name")),
    "delete": ((plain, PLAIN),
               (lambda: Plain.objects.get(pk=1).delete(), "DELETE FROM plain")),
    "bulk": (
        (lambda: Plain.cqrs.bulk_create(
            [Plain(id=i, name="row") for i in (1, 2, 3)]),
         "INSERT INTO plain (id, name) VALUES (1, 'row'), (2, 'row'), (3, 'row')"),
        (lambda: Plain.cqrs.bulk_update(Plain.objects.order_by("id"), number=7),
         "UPDATE plain SET number = 7")),
    "create, then update, in a transaction": (
        (lambda: several(plain, lambda: None), PLAIN),
        (lambda: several(lambda: change(Plain, 1, name="a"),
                         lambda: Plain.objects.create(id=2, name="b")),
         "BEGIN; UPDATE plain SET name = 'a';"
         "INSERT INTO plain (id, name) VALUES (2, 'b'); COMMIT")),
    "delete and create again": (
        (plain, PLAIN),
        (lambda: several(lambda: Plain.objects.get(pk=1).delete(), plain),
         f"BEGIN; DELETE FROM plain; {PLAIN}; COMMIT")),
    "rolled back": ((failing_transaction,
                     "BEGIN; INSERT INTO plain (id, name) VALUES (9, 'x'); ROLLBACK"),),
    "types": ((create_types, r"""
        INSERT INTO types VALUES
          (1, 0, now(), -32768, -2147483648, -9223372036854775808, -1.5e-300,
           -0.5, false, E'a "b" \\ / \n\t\u0001 ä\U0001F600', '', '0001-01-01',
           '2024-02-29 01:02:03.456789+00',
           '11111111-2222-3333-4444-55555555555A',
           '{"a": true, "b": [1, 2.5, null, {"c": "\u20ac"}]}', '{1,NULL,-3}',
           '{{a,b},{c,"d \"e\""}}', 'a=>1, b=>NULL, "c d"=>"e"', '192.168.0.1');
        INSERT INTO types (id) VALUES (2);
        INSERT INTO types VALUES
          (3, 0, now(), 1, 0, 9223372036854775807, 3, 123456789.125, true, '',
           'x', '9999-12-31', '1970-01-01 00:00:00+00',
           '00000000-0000-0000-0000-000000000000', '[]', '{}', '{}', '',
           '2001:db8::ff')"""),),
    "keys": (
        (lambda: Country.objects.create(code='Ä', name="x"),
         "INSERT INTO country (code, name) VALUES ('Ä', 'x')"),
        (lambda: Country.objects.get(pk='Ä').delete(), "DELETE FROM country"),
        (lambda: Token.objects.create(id=uuid.UUID(TOKEN), note="n"),
         f"INSERT INTO token (id, note) VALUES ('{TOKEN}', 'n')"),
        (lambda: change(Token, TOKEN, note=None), "UPDATE token SET note = NULL")),
    "tracked fields, meta, correlation id": (
        (ada, ADA),
        (lambda: change(Author, 1, name="x"), "UPDATE author SET name = 'x'"),
        (lambda: change(Author, 1, born=None), "UPDATE author SET born = NULL"),
        (lambda: Author.objects.get(pk=1).delete(), "DELETE FROM author")),
    "fields, foreign key, filter, delete data": (
        (notes, f"{ADA}; {NOTES}"),
        (lambda: Author.objects.create(id=2, name="G"),
         "INSERT INTO author (id, name) VALUES (2, 'G')"),
        (lambda: change(Book, 1, author_id=2, price=None),
         "UPDATE book SET author_id = 2, price = NULL"),
        (lambda: change(Book, 1, title="draft"), "UPDATE book SET title = 'draft'"),
        (lambda: change(Book, 1, title="final"), "UPDATE book SET title = 'final'"),
        (lambda: Book.objects.get(pk=1).delete(), "DELETE FROM book")),
    "serializer": (
        (lambda: Shelf.objects.create(id=1, label="a"),
         "INSERT INTO shelf (id, label) VALUES (1, 'a')"),
        (lambda: change(Shelf, 1, label='b'), "UPDATE shelf SET label = 'b'"),
        (lambda: Shelf.objects.get(pk=1).cqrs_sync(), "SELECT cqrs_sync('shelf')")),
    "sync": (
        (plain, PLAIN),
        (lambda: Plain.objects.get(pk=1).cqrs_sync(), "SELECT cqrs_sync('plain')"),
        (lambda: Plain.objects.get(pk=1).cqrs_sync(queue="one"),
         "SELECT cqrs_sync('plain', queue => 'one')"),
        (ada, ADA),
        (lambda: Author.objects.get(pk=1).cqrs_sync(queue="one"),
         "SELECT cqrs_sync('author', queue => 'one')")),
}


class Both(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.python_tap, cls.sql_tap = Tap("python"), Tap("cqrs")

    def setUp(self):
        empty_tables()
        published()
        self.python_tap.read_to_end()
        self.sql_tap.read_to_end()

    def messages(self, by_python, by_sql):
        """What both masters send."""
        by_python()
        master.run(by_sql)
        published()
        # The Python master waits for no confirm: its last message tells that
        # those before it are in the queue.
        Marker.objects.create()
        sent = []

        def complete():
            sent.extend(self.python_tap.read_to_end())
            return sent and sent[-1][0] == "marker"

        wait_for(complete, "the Python master's messages")
        return sent[:-1], self.sql_tap.read_to_end()

    def bodies(self, by_python, by_sql):
        python, sql = self.messages(by_python, by_sql)
        return ([json.loads(m[2]) for m in python], [json.loads(m[2]) for m in sql])


class Vectors(Both):
    maxDiff = None

    def check(self, steps):
        for number, (by_python, by_sql) in enumerate(steps, 1):
            python, sql = self.messages(by_python, by_sql)
            self.assertEqual([comparable(m) for m in sql],
                             [comparable(m) for m in python], f"step {number}")


for name, steps in VECTORS.items():
    setattr(Vectors, "test_" + re.sub(r"\W+", "_", name),
            lambda self, steps=steps: self.check(steps))


class Differences(Both):
    """One test for each line of the table in docs/wire-format.md that can be
    seen in messages."""

    def test_numeric(self):
        python, sql = self.messages(
            lambda: Types.objects.create(id=1, numeric=Decimal("12345678901234567890.125")),
            "INSERT INTO types (id, numeric) VALUES (1, 12345678901234567890.125)")
        self.assertIn('"numeric":12345678901234567890.125', sql[0][2])
        self.assertNotIn("12345678901234567890.125", python[0][2])

    def test_nan(self):
        python, sql = self.messages(
            lambda: Types.objects.create(id=1, real=float("nan")),
            "INSERT INTO types (id, real) VALUES (1, 'NaN')")
        self.assertIn('"real":"NaN"', sql[0][2])
        self.assertIn('"real":NaN', python[0][2])

    def test_types_that_python_cannot_send(self):
        values = {"clock": datetime.time(1, 2), "span": datetime.timedelta(1),
                  "bytes": b"\0", "days": [datetime.date(2024, 2, 29)],
                  "ints": (1, 5), "uids": [uuid.UUID(int=0)]}
        for field, value in values.items():
            with self.subTest(field), self.assertRaises((TypeError, OverflowError)):
                row = Strange(**{field: value})
                row.save()
                row.refresh_from_db()
                row.save()

    def test_several_saves_of_a_row(self):
        """By objects of their own, each raises the revision in Django."""
        python, sql = self.bodies(
            lambda: several(plain, lambda: change(Plain, 1, name="a"),
                            lambda: change(Plain, 1, name="b")),
            f"BEGIN; {PLAIN}; UPDATE plain SET name = 'a'; UPDATE plain SET name = 'b'; COMMIT")
        self.assertEqual(len(sql), 1)
        self.assertEqual(sql[0]["instance_data"]["cqrs_revision"], 0)
        self.assertGreater(len(python), 1)

    def test_previous_data_of_several_saves(self):
        self.bodies(ada, ADA)
        python, sql = self.bodies(
            lambda: twice("a", "Ada"),
            "BEGIN; UPDATE author SET name = 'a'; UPDATE author SET name = 'Ada'; COMMIT")
        self.assertNotIn("name", sql[0]["previous_data"])
        self.assertEqual(python[0]["previous_data"]["name"], "Ada")

    def test_create_and_delete(self):
        python, sql = self.bodies(
            lambda: several(plain, lambda: Plain.objects.get(pk=1).delete()),
            f"BEGIN; {PLAIN}; DELETE FROM plain; COMMIT")
        self.assertEqual(sql, [])
        self.assertNotEqual(python, [])

    def test_sync_of_tracked_fields(self):
        """previous_data of a SYNC is null; Django says so only of objects
        that were just read."""
        self.bodies(ada, ADA)
        row = Author.objects.get(pk=1)
        row.name = "x"

        def save_and_sync():
            row.save()
            row.cqrs_sync()

        python, sql = self.bodies(
            save_and_sync, "UPDATE author SET name = 'x'; SELECT cqrs_sync('author')")
        # Before 3.1.0 they have a connection each, and no order.
        self.assertEqual(sorted(m["signal_type"] for m in python), ["SAVE", "SYNC"])

    def test_raw_changes(self):
        """Django's own queryset methods and SQL are not seen by its master."""
        self.bodies(plain, PLAIN)
        python, sql = self.bodies(
            lambda: (Plain.objects.update(name="x"),
                     Plain.objects.bulk_create([Plain(id=2, name="y")])),
            "UPDATE plain SET name = 'x'; INSERT INTO plain (id, name) VALUES (2, 'y')")
        self.assertEqual(python, [])
        self.assertEqual([m["signal_type"] for m in sql], ["SAVE"] * 2)

    def test_properties(self):
        python, sql = self.messages(ada, ADA)
        self.assertTrue(sql[0][1].message_id and sql[0][1].timestamp)
        self.assertEqual(sql[0][1].correlation_id, "SAVE author None")
        self.assertIsNone(python[0][1].message_id)

"""What the documents say of django-cqrs and of other consumers."""

import os
import pkgutil
import re
import subprocess
import sys
import unittest
from importlib import import_module
from pathlib import Path

# First: it sets Django up.
from harness import (HERE, URL, WORK, Database, broker, master, published,
                     queue_state, wait_for)

import dj_cqrs
from dj_cqrs import admin, managers, mixins
from dj_cqrs.management import commands
from django.core.management.base import BaseCommand

DOCS = HERE / "../../docs"


def document(name):
    return (DOCS / name).read_text("utf-8")


def public(cls):
    """Names that a class itself gives to those who use it."""
    return {name for name in vars(cls)
            if not name.startswith(("_", "get_next_by_", "get_previous_by_"))
            and name not in
            ("objects", "Meta", "DoesNotExist", "MultipleObjectsReturned")}


def command_words():
    """Management commands and their options."""
    general = {option for action in
               BaseCommand().create_parser("manage.py", "any")._actions
               for option in action.option_strings}
    for module in pkgutil.iter_modules(commands.__path__):
        command = import_module(f"dj_cqrs.management.commands.{module.name}").Command()
        yield module.name
        for action in command.create_parser("manage.py", module.name)._actions:
            yield from {option for option in action.option_strings
                        if option.startswith("--")} - general


def setting_words():
    """Attributes and settings, by the library's source."""
    text = "".join(path.read_text("utf-8")
                   for path in Path(dj_cqrs.__file__).parent.rglob("*.py"))
    yield from re.findall(r"\bCQRS_[A-Z_]+\b", text)
    yield from re.findall(r"settings(?:\.CQRS)?(?:\['\w+'\])?\.get\('(\w+)'", text)
    yield from re.findall(r"settings(?:\.CQRS)?\['(\w+)'\]", text)


class Guide(unittest.TestCase):
    def test_all_of_the_library_has_a_line(self):
        """Each attribute, method, setting, command and option is named in the
        guide for those who come from it."""
        words = {*command_words(), *setting_words()}
        for cls in (mixins.RawMasterMixin, mixins.MasterMixin,
                    mixins.RawReplicaMixin, mixins.ReplicaMixin,
                    managers.MasterManager, managers.ReplicaManager,
                    admin.CQRSAdminMasterSyncMixin):
            words |= {cls.__name__} | public(cls)
        text = document("from-django-cqrs.md")
        self.assertGreater(len(words), 80)
        self.assertEqual([word for word in sorted(words)
                          if not re.search(rf"(?<!\w){word}(?!\w)", text)], [])


class Consumer(unittest.TestCase):
    """The program in Python of docs/consumers.md keeps a copy of a master."""

    def test_example(self):
        page = document("consumers.md")
        code = re.search(r"^```python\n(.*?)^```", page, re.M | re.S)[1]
        table = re.search(r"^```sql\n(.*?)^```", page, re.M | re.S)[1]
        (WORK / "consumer.py").write_text(code, "utf-8")
        self.copy = Database("replica")
        self.copy.run("DROP TABLE IF EXISTS copy")
        self.copy.run(table)
        self.addCleanup(self.copy.run, "DROP TABLE copy")
        # That of another release has messages of tables that are no more.
        broker.queue_delete("example")
        master.run("TRUNCATE plain")
        published()
        process = subprocess.Popen(
            [sys.executable, WORK / "consumer.py", "example", "plain"],
            env={**os.environ, "AMQP_URL": URL, "DATABASE_URL": "dbname=replica"})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_for(lambda: queue_state("example").get("consumers"), "the example")

        master.run("INSERT INTO plain (id, name) SELECT i, 'row'"
                   " FROM generate_series(1, 20) AS i;"
                   "UPDATE plain SET name = name || id WHERE id % 2 = 0;"
                   "DELETE FROM plain WHERE id % 3 = 0")
        master.run("SELECT cqrs_sync('plain', 'id < 9', 'example')")
        expected = master.run(
            "SELECT id::text, cqrs_revision, name FROM plain ORDER BY plain.id")

        def rows():
            return self.copy.run("SELECT pk::text, revision, data->>'name'"
                                 " FROM copy ORDER BY copy.pk")

        try:
            wait_for(lambda: rows() == expected, "the example's copy to be equal")
        except AssertionError:
            self.assertEqual(rows(), expected)
            raise

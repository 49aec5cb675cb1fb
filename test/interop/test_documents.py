"""The consumer in docs/wire-format.md keeps a copy of a master."""

import re
import sqlite3
import subprocess
import sys
import unittest

from harness import HERE, URL, WORK, master, published, queue_state, wait_for

DOCUMENT = HERE / "../../docs/wire-format.md"


class Consumer(unittest.TestCase):
    def test_example(self):
        code = re.search(r"^```python\n(.*?)^```", DOCUMENT.read_text("utf-8"),
                         re.M | re.S)[1]
        self.assertLessEqual(len(code.splitlines()), 30)
        (WORK / "consumer.py").write_text(code, "utf-8")
        copy = WORK / "consumer.db"
        copy.unlink(missing_ok=True)
        master.run("TRUNCATE plain")
        published()
        process = subprocess.Popen(
            [sys.executable, WORK / "consumer.py", URL, "example", "plain", copy])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_for(lambda: queue_state("example").get("consumers"), "the example")

        master.run("INSERT INTO plain (id, name) SELECT i, 'row'"
                   " FROM generate_series(1, 20) AS i;"
                   "UPDATE plain SET name = name || id WHERE id % 2 = 0;"
                   "DELETE FROM plain WHERE id % 3 = 0")
        master.run("SELECT cqrs_sync('plain', 'id < 9', 'example')")
        self.compare(copy)

    def compare(self, copy):
        expected = master.run("SELECT id::text, cqrs_revision FROM plain ORDER BY plain.id")
        with sqlite3.connect(copy) as database:
            wait_for(
                lambda: database.execute(
                    "SELECT pk, revision FROM replica"
                    " ORDER BY CAST(pk AS integer)").fetchall() == expected,
                "the example's copy to be equal")
        database.close()

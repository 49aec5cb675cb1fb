"""What SQL does to a master's tables arrives in django-cqrs's replicas and, at
the same time, in tables that follow the master by this extension."""

import json
import time

from harness import (ReplicaTest, manage, master, pipeline, published,
                     queue_state, wait_for)

ALL_TYPES = """
INSERT INTO types VALUES
  (1, 0, now(), -32768, -2147483648, -9223372036854775808, -1.5e-300, -0.001,
   false, E'a "b" \\\\ / \\n\\t\\u0001 äöü \\U0001F600', '', '0001-01-01',
   '2024-02-29 01:02:03.456789+05', '11111111-2222-3333-4444-55555555555A',
   '{"b": [1, 2.5, null, {"c": "\\u20ac"}], "a": true}', '{1,NULL,-3}',
   '{{a,b},{c,"d \\"e\\""}}', 'a=>1, b=>NULL, "c d"=>"e"', '192.168.0.1'),
  (2, 7, '2000-01-01 00:00+00', 32767, 2147483647, 9223372036854775807, 3,
   123456789012.345, true, '', 'x', '9999-12-31', '1970-01-01 00:00:00+00',
   '00000000-0000-0000-0000-000000000000', '[]', '{}', '{}', '', '::1'),
  (3, 0, now(), NULL, NULL, NULL, 'NaN', NULL, NULL, NULL, NULL, NULL, NULL,
   NULL, NULL, NULL, NULL, NULL, NULL),
  (4, 0, now(), 1, 1, 1, '-Infinity', 0, true, repeat('long ', 20000), 'y',
   '2024-02-29', '2024-12-31 23:59:59.999999+00',
   'ffffffff-ffff-ffff-ffff-ffffffffffff', '"text"', '{0}', NULL, 'k=>v',
   '2001:db8::ff')
"""


# What a replica logs of a failure of its own.
FAILURE = ["CQRS service exception", "CQRS is (failed|delayed|requeued)",
           "added to dead letter queue", "^Traceback", "^  ", "^RuntimeError"]


class Flows(ReplicaTest):
    companion = "copy"

    def test_create_update_delete(self):
        master.run("INSERT INTO plain (id, name, number)"
                   " VALUES (1, 'one', 1), (2, 'two', NULL), (3, 'three', 3)")
        self.assert_equal()
        master.run("UPDATE plain SET name = 'zwei', number = 2 WHERE id = 2")
        self.assert_equal()
        master.run("DELETE FROM plain WHERE id = 3")
        self.assert_equal()
        self.assertEqual(len(master.rows("plain")), 2)

    def test_types(self):
        master.run(ALL_TYPES)
        self.assert_equal()
        master.run("UPDATE types SET whole = coalesce(whole, 0) / 2, text = text || '!'")
        self.assert_equal()

    def test_types_that_python_cannot_send(self):
        master.run(r"""
            INSERT INTO strange VALUES
              (1, 0, now(), '23:59:59.999999', '-1 day 02:03:04.5', '\x00ff',
               '[1,5)', '{2024-02-29,0001-01-01}',
               '{11111111-2222-3333-4444-555555555555}'),
              (2, 0, now(), '00:00', '400 days', '', 'empty', '{}', '{}'),
              (3, 0, now(), '12:30', '0', NULL, '(,)', NULL, NULL)""")
        self.assert_equal()

    def test_keys_of_other_types(self):
        master.run("""
            INSERT INTO country (code, name) VALUES ('A"', 'quoted'), ('ß', 'sharp');
            INSERT INTO token (id, note) VALUES
              ('11111111-2222-3333-4444-55555555555A', 'x'),
              ('21111111-2222-3333-4444-555555555555', NULL);
            UPDATE country SET name = name || '!';
            UPDATE token SET note = 'y';
            DELETE FROM country WHERE code = 'A"';
            DELETE FROM token WHERE note = 'y' AND id::text LIKE '2%'""")
        self.assert_equal()
        self.assertEqual(len(master.rows("token")), 1)

    def test_transaction_of_many_changes(self):
        master.run("""
            BEGIN;
            INSERT INTO plain (id, name) SELECT i, 'row ' || i
                FROM generate_series(1, 300) AS i;
            INSERT INTO shelf (id, label) VALUES (1, 'a'), (2, 'b');
            UPDATE plain SET number = id WHERE id % 2 = 0;
            UPDATE plain SET number = number + 1 WHERE id % 4 = 0;
            DELETE FROM plain WHERE id % 5 = 0;
            UPDATE shelf SET label = 'c' WHERE id = 1;
            COMMIT""")
        self.assert_equal()

    def test_bulk_changes(self):
        master.run("INSERT INTO plain (id, name) SELECT i, 'row'"
                   " FROM generate_series(1, 200) AS i")
        master.run("UPDATE plain SET name = name || id")
        master.run("DELETE FROM plain WHERE id > 120")
        self.assert_equal()
        master.run("TRUNCATE plain")
        self.assert_equal()

    def test_savepoints(self):
        master.run("""
            BEGIN;
            INSERT INTO plain (id, name) VALUES (1, 'kept');
            SAVEPOINT s;
            UPDATE plain SET name = 'undone' WHERE id = 1;
            INSERT INTO plain (id, name) VALUES (2, 'undone');
            ROLLBACK TO s;
            INSERT INTO plain (id, name) VALUES (3, 'kept');
            COMMIT;
            BEGIN;
            DELETE FROM plain;
            ROLLBACK""")
        self.assert_equal()
        self.assertEqual(len(master.rows("plain")), 2)

    def test_keys_move(self):
        master.run("INSERT INTO plain (id, name) VALUES (1, 'a'), (2, 'b')")
        master.run("UPDATE plain SET id = 3 WHERE id = 1")
        master.run("""
            BEGIN;
            UPDATE plain SET id = 4 WHERE id = 3;
            UPDATE plain SET id = 3 WHERE id = 2;
            COMMIT""")
        self.assert_equal()

    def test_delete_and_create_again(self):
        master.run("INSERT INTO plain (id, name, cqrs_revision)"
                   " VALUES (1, 'old', 5), (2, 'old', 5)")
        master.run("""
            BEGIN;
            DELETE FROM plain WHERE id = 1;
            INSERT INTO plain (id, name) VALUES (1, 'new');
            COMMIT""")
        master.run("DELETE FROM plain WHERE id = 2")
        master.run("INSERT INTO plain (id, name) VALUES (2, 'new')")
        self.assert_equal()

    def test_previous_data_and_meta(self):
        def kept():
            rows = [database.run("SELECT previous, meta FROM author WHERE id = 1")
                    for database in self.followers]
            self.assertEqual(rows[0], rows[1])
            return rows[0][0]

        master.run("INSERT INTO author (id, name) VALUES (1, 'Ada')")
        self.assert_equal()
        previous, meta = kept()
        self.assertEqual(meta, {"signal": "SAVE", "name": "Ada"})
        self.assertEqual(previous["name"], None)
        master.run("UPDATE author SET name = 'x', born = '1815-12-10'")
        self.assert_equal()
        previous, meta = kept()
        self.assertEqual((previous["name"], previous["born"]), ("Ada", None))
        self.assertEqual(meta["name"], "x")

    def test_mapping_filter_and_cascade(self):
        master.run("""
            INSERT INTO author (id, name) VALUES (1, 'Ada'), (2, 'Grace');
            INSERT INTO book (id, title, price, author_id) VALUES
              (1, 'Notes', 12345678901234567.89, 1), (2, 'COBOL', NULL, 2)""")
        self.assert_equal()
        master.run("UPDATE book SET author_id = 1, title = 'Flow-matic' WHERE id = 2")
        self.assert_equal()
        self.assertEqual(
            self.replica.database.value("SELECT previous FROM book WHERE number = 2"),
            {"name": "COBOL", "writer": 2})
        # No master cascades in the database by itself in Django.
        master.run("""
            ALTER TABLE book ADD FOREIGN KEY (author_id) REFERENCES author
                ON DELETE CASCADE;
            DELETE FROM author WHERE id = 1""")
        self.assert_equal()
        self.assertEqual(master.rows("book"), [])
        master.run("INSERT INTO book (id, title, author_id) VALUES (3, 'draft', 2)")
        self.settle()
        self.assertEqual(self.replica.database.rows("book"), [])
        master.run("UPDATE book SET title = 'final'")
        self.assert_equal()
        self.assertEqual(len(master.rows("book")), 1)

    def test_sync(self):
        insert = "INSERT INTO plain (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c')"
        master.run(insert)
        self.settle()
        for sync in ("SELECT cqrs_sync('plain')",
                     "SELECT cqrs_sync('plain', queue => 'replica')",
                     "CALL cqrs_sync_all('plain', batch_size => 2)"):
            with self.subTest(sync):
                self.replica.database.run(
                    "DELETE FROM plain WHERE id = 1;"
                    "UPDATE plain SET name = 'wrong' WHERE id = 2")
                master.run(sync)
                self.assert_equal()
        self.replica.database.run("DELETE FROM plain")
        master.run("SELECT cqrs_sync('plain', queue => 'another')")
        self.settle()
        self.assertEqual(self.replica.database.rows("plain"), [])

    def test_only_direct_syncs(self):
        """Broadcast SYNCs are ignored; so are direct ones, because messages
        do not tell a replica the queue, a Python master's neither."""
        master.run("INSERT INTO country (code, name) VALUES ('DE', 'Germany')")
        self.assert_equal()
        self.replica.database.run("DELETE FROM country")
        master.run("SELECT cqrs_sync('country')")
        master.run("SELECT cqrs_sync('country', queue => 'replica')")
        self.settle()
        self.assertEqual(self.replica.database.rows("country"), [])

    def signals(self):
        """What the replica that keeps nothing has got."""
        return [line.partition("signal: ")[2]
                for line in self.replica.lines()[self.replica.seen:]
                if "signal: " in line]

    def test_no_db_operations(self):
        master.run("INSERT INTO signal (id, name) VALUES (1, 'one')")
        master.run("UPDATE signal SET name = 'two'")
        master.run("SELECT cqrs_sync('signal')")
        master.run("DELETE FROM signal")
        self.settle()
        self.assertEqual(
            self.copy.database.run("SELECT signal, name, gone, meta FROM signal_taken"
                                   " ORDER BY id"),
            [(signal, name, gone, {"of": signal}) for signal, name, gone in
             (("SAVE", "one", None), ("SAVE", "two", None), ("SYNC", "two", None),
              ("DELETE", None, {"name": "two"}))])
        self.assertEqual(self.signals(), [
            "SAVE one {'of': 'SAVE'}", "SAVE two {'of': 'SAVE'}",
            "SYNC two {'of': 'SYNC'}", "DELETE 1 {'name': 'two'} {'of': 'DELETE'}"])
        self.assert_log()

    def test_retries_that_the_replica_decides(self):
        before = queue_state("dead_letter_replica")["messages"]
        master.run("INSERT INTO signal (id, name) VALUES (1, 'fail')")
        wait_for(lambda: queue_state("dead_letter_replica")["messages"] > before,
                 "a dead letter")
        self.settle()
        self.assertEqual(self.signals(), ["SAVE fail {'of': 'SAVE'}"] * 2)
        self.assertEqual(
            self.copy.database.run(
                "SELECT cqrs_id, instance_pk, attempts FROM cqrs.dead_letters"),
            [("signal", "1", 2)])
        self.assert_log(FAILURE)

    def test_failing_consumer(self):
        master.run("INSERT INTO plain (id, name) VALUES (1, 'fail 2')")
        wait_for(lambda: self.replica.database.rows("plain"), "the third try")
        self.assert_equal(expected=FAILURE)

    def test_dead_letters(self):
        before = queue_state("dead_letter_replica")["messages"]
        master.run("INSERT INTO plain (id, name) VALUES (10, 'fail 5')")
        wait_for(lambda: queue_state("dead_letter_replica")["messages"] > before,
                 "a dead letter")
        self.settle()
        self.assertEqual(self.replica.database.rows("plain"), [])
        self.replica.complaints()
        manage("replica", "cqrs_dead_letters", "retry")
        wait_for(lambda: self.replica.database.rows("plain"), "the sixth try")
        self.assert_equal(expected=FAILURE)

    def test_expired(self):
        self.replica.stop()
        master.run("""SELECT cqrs_alter('plain', '{"message_ttl": 1}')""")
        try:
            master.run("INSERT INTO plain (id, name) VALUES (1, 'late')")
            published()
        finally:
            master.run("""SELECT cqrs_alter('plain', '{"message_ttl": null}')""")
        sent = time.time()
        wait_for(lambda: time.time() > sent + 1, "the message to expire")
        before = queue_state("dead_letter_replica")["messages"]
        self.replica.start()
        self.settle()
        self.assertEqual(self.replica.database.rows("plain"), [])
        self.assertEqual(queue_state("dead_letter_replica")["messages"], before + 1)
        dump = json.loads(manage("replica", "cqrs_dead_letters", "dump"))
        self.assertEqual(dump["instance_data"]["name"], "late")
        wait_for(lambda: queue_state("dead_letter_replica")["messages"] == before + 1,
                 "the letter to be back")
        manage("replica", "cqrs_dead_letters", "retry")
        wait_for(lambda: self.replica.database.rows("plain"), "the letter")
        self.assert_equal(expected=["added to dead letter queue"])

    def test_dump_and_load(self):
        master.run(ALL_TYPES)
        master.run("INSERT INTO author (id, name) VALUES (1, 'Ada');"
                   "INSERT INTO book (id, title, author_id) VALUES (1, 'N', 1)")
        master.run("INSERT INTO shelf (id, label) VALUES (1, E'a\\nb\\\\')")
        self.settle()
        for name in ("types", "book", "shelf"):
            self.replica.database.run(f"DELETE FROM {name}")
            pipeline(f"""$psql -c "SELECT cqrs_bulk_dump('{name}')" |
                         $manage cqrs_bulk_load -i -""")
        self.assert_equal()
        path = master.value("SELECT current_setting('data_directory') || '/types.dump'")
        master.value("SELECT cqrs_bulk_dump('types', %s, true)", path)
        self.replica.database.run("DELETE FROM types")
        text = master.value("SELECT pg_read_file(%s)", path)
        manage("replica", "cqrs_bulk_load", "-i", "-", stdin=text)
        self.assert_equal()

    def test_diff(self):
        master.run("INSERT INTO plain (id, name) SELECT i, 'row'"
                   " FROM generate_series(1, 25) AS i")
        master.run("INSERT INTO country (code, name) VALUES ('A', 'a')")
        self.settle()
        self.replica.database.run(
            "DELETE FROM plain WHERE id % 10 = 0;"
            "UPDATE plain SET cqrs_revision = 7, name = 'wrong' WHERE id = 5")
        pipeline(r"""
            $psql -c "SELECT cqrs_diff_master('plain', batch => 10)" |
                $manage cqrs_diff_replica >diff 2>diff.log
            grep -q 'PK to resync' diff.log
            $psql <<'END'
\set diff `cat diff`
SELECT cqrs_diff_sync(string_to_array(:'diff', E'\n'));
END""")
        self.assert_equal(expected=["revision downgrade on sync"])

    def test_deleted_diff(self):
        master.run("INSERT INTO plain (id, name) SELECT i, 'row'"
                   " FROM generate_series(1, 25) AS i;"
                   "INSERT INTO country (code, name) VALUES ('A', 'a')")
        self.settle()
        self.replica.database.run(
            "INSERT INTO plain (id, name, cqrs_revision, cqrs_updated)"
            " SELECT i, 'lost', 0, now() FROM generate_series(20, 40) AS i"
            " ON CONFLICT DO NOTHING;"
            "INSERT INTO country (code, name, cqrs_revision, cqrs_updated)"
            " VALUES ('\"', 'lost', 0, now())")
        for name in ("plain", "country"):
            pipeline(rf"""
                $manage cqrs_deleted_diff_replica --cqrs-id={name} --batch=10 >keys
                $psql <<'END' | $manage cqrs_deleted_sync_replica
\set keys `cat keys`
SELECT cqrs_deleted_diff_master(string_to_array(:'keys', E'\n'));
END""")
        self.assert_equal()

    def test_several_workers_of_sql(self):
        """Commits of several sessions arrive in their order."""
        pipeline(f"""
            cat >workers.sql <<'END'
{WORKERS}
END
            for worker in 1 2 3; do
                $psql -q -v worker=$worker -f workers.sql >/dev/null &
            done
            wait""")
        self.assert_equal()


WORKERS = "\n".join(
    f"INSERT INTO plain (id, name) VALUES ({i % 7}, :'worker')"
    " ON CONFLICT (id) DO UPDATE SET name = excluded.name,"
    f" number = coalesce(plain.number, 0) + 1;"
    + (f"DELETE FROM plain WHERE id = {(i + 3) % 7};" if i % 5 == 0 else "")
    for i in range(60))

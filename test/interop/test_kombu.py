"""A replica with KombuTransport, over AMQP."""

from harness import ReplicaTest, master
from test_flows import ALL_TYPES


class Kombu(ReplicaTest):
    role = "kombu"

    def test_flows(self):
        master.run(ALL_TYPES)
        master.run("""
            INSERT INTO plain (id, name) SELECT i, 'row' FROM generate_series(1, 50) AS i;
            UPDATE plain SET number = id;
            DELETE FROM plain WHERE id % 3 = 0;
            UPDATE plain SET id = 100 WHERE id = 1;
            INSERT INTO author (id, name) VALUES (1, 'Ada');
            INSERT INTO book (id, title, author_id) VALUES (1, 'Notes', 1)""")
        self.assert_equal()

    def test_sync(self):
        master.run("INSERT INTO plain (id, name) VALUES (1, 'a'), (2, 'b')")
        self.settle()
        for queue in ("NULL", "'kombu'"):
            self.replica.database.run("UPDATE plain SET name = 'wrong'")
            master.run(f"SELECT cqrs_sync('plain', queue => {queue})")
            self.assert_equal()

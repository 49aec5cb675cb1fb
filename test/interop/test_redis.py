"""A replica with KombuTransport, over Redis."""

import socket
import subprocess
import unittest

import redis

import harness
from harness import ReplicaTest, Replica, master, published, wait_for
from test_flows import ALL_TYPES


def setUpModule():
    """A server of our own, to which the master publishes meanwhile."""
    global server, client, amqp_url
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    directory = harness.WORK / "redis"
    directory.mkdir(exist_ok=True)
    with (directory / "log").open("a") as log:
        server = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port),
             "--dir", str(directory), "--save", "", "--appendonly", "yes"],
            stdout=log, stderr=log)
    unittest.addModuleCleanup(server.wait)
    unittest.addModuleCleanup(server.kill)
    client = redis.Redis(port=port)
    wait_for(answers, "the server")
    published()
    harness.URLS["redis"] = f"redis://127.0.0.1:{port}/2"
    client = redis.Redis(port=port, db=2)
    use_url(harness.URLS["redis"])
    unittest.addModuleCleanup(use_url, harness.URL)
    unittest.addModuleCleanup(published)


def answers():
    try:
        return client.ping()
    except redis.exceptions.ConnectionError:
        return False


def use_url(url):
    master.run(f"ALTER SYSTEM SET cqrs.url = '{url}'")
    master.run("SELECT pg_reload_conf()")
    wait_for(lambda: master.value("SHOW cqrs.url") == url, "the setting")


class RedisReplica(Replica):
    def is_consuming(self):
        return any(c["cmd"] == "brpop" for c in client.client_list())


class Redis(ReplicaTest):
    role = "redis"
    replica_class = RedisReplica

    def test_flows(self):
        master.run(ALL_TYPES)
        master.run("""
            INSERT INTO plain (id, name) SELECT i, 'row' FROM generate_series(1, 500) AS i;
            UPDATE plain SET number = id;
            DELETE FROM plain WHERE id % 3 = 0;
            UPDATE plain SET id = 1000 WHERE id = 1;
            INSERT INTO author (id, name) VALUES (1, 'Ada');
            INSERT INTO book (id, title, author_id) VALUES (1, 'Notes', 1)""")
        self.assert_equal()
        self.assertEqual(client.hlen("unacked"), 0)

    def test_sync(self):
        master.run("INSERT INTO plain (id, name) VALUES (1, 'a'), (2, 'b')")
        self.settle()
        for queue in ("NULL", "'redis'"):
            self.replica.database.run("UPDATE plain SET name = 'wrong'")
            master.run(f"SELECT cqrs_sync('plain', queue => {queue})")
            self.assert_equal()

    def test_restart(self):
        """What was published meanwhile arrives, in order."""
        # A message that is not acknowledged goes back to the queue at the end.
        wait_for(lambda: client.hlen("unacked") == 0, "acknowledgements")
        self.replica.stop()
        master.run("""
            INSERT INTO plain (id, name) SELECT i, 'a' FROM generate_series(1, 100) AS i;
            UPDATE plain SET name = 'b'""")
        master.run("UPDATE plain SET name = 'c' WHERE id > 50")
        published()
        self.assertEqual(client.llen("redis"), 150)
        self.replica.start()
        self.assert_equal()

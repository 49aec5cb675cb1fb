"""The real django-cqrs as a master: how fast rows get into RabbitMQ.

    django_master.py URL QUEUE SAVES SYNCS

Saves rows of the table "django" one by one, each in a transaction of its own as
Django does it by default, then sends all by the command cqrs_sync.  Prints, for
both, the number of messages and the seconds until the queue had them.  The
database is what libpq's environment says.
"""

import contextlib
import os
import sys
import time

import pika

import django_item

URL, QUEUE, SAVES, SYNCS = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5])
TIMEOUT_S = 300

# The defaults, which are filled in only for apps with models.
django_item.configure(
    URL, master={"CQRS_AUTO_UPDATE_FIELDS": False, "CQRS_MESSAGE_TTL": 86400,
                 "correlation_function": None, "meta_function": None})

from dj_cqrs.mixins import MasterMixin  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.utils import timezone  # noqa: E402

Item = django_item.model(MasterMixin, "django")


def item(i):
    return Item(id=i, a=i * 2, b=f"name {i}", c="x" * 120, d=i / 8,
                e=timezone.now(), f=True,
                g="11111111-2222-3333-4444-555555555555")


# Without heartbeats: nobody would answer them meanwhile.
broker = pika.BlockingConnection(
    pika.URLParameters(URL + "/%2F?heartbeat=0")).channel()


def measure(action, count):
    """Seconds from the start of the action until all messages are there."""
    broker.queue_purge(QUEUE)
    start = time.monotonic()
    action()
    while broker.queue_declare(QUEUE, passive=True).method.message_count < count:
        if time.monotonic() > start + TIMEOUT_S:
            raise TimeoutError(f"the queue never had {count} messages")
        time.sleep(0.001)
    print(count, time.monotonic() - start)


def save():
    for i in range(SAVES):
        item(i).save(force_insert=True)


def sync():
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        call_command("cqrs_sync", cqrs_id="django", filter="{}")


Item.objects.all().delete()
item(-1).save(force_insert=True)
measure(save, SAVES)
Item.objects.all().delete()
Item.objects.bulk_create(map(item, range(SYNCS)))
measure(sync, SYNCS)
broker.queue_purge(QUEUE)

"""The real django-cqrs as a replica: how fast messages become rows.

    django_replica.py URL QUEUE WORKERS

Makes the table "followed" of the database that libpq's environment says, and
runs the command cqrs_consume with that many workers.  Each worker is a process
that imports this file anew.
"""

import os
import sys

import django
from django.conf import settings

URL, QUEUE, WORKERS = sys.argv[1:4]

settings.configure(
    SECRET_KEY="not secret", USE_TZ=True, INSTALLED_APPS=["dj_cqrs"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql",
                           "NAME": os.environ["PGDATABASE"],
                           "HOST": os.environ["PGHOST"],
                           "PORT": os.environ["PGPORT"]}},
    CQRS={"transport": "dj_cqrs.transport.RabbitMQTransport", "url": URL,
          "exchange": "cqrs", "queue": QUEUE,
          # The defaults, which are filled in only for apps with models.
          "replica": {"CQRS_MAX_RETRIES": 30, "CQRS_RETRY_DELAY": 2,
                      "delay_queue_max_size": 1000}})
django.setup()

from dj_cqrs.mixins import ReplicaMixin  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection, models  # noqa: E402


class Item(ReplicaMixin):
    CQRS_ID = "followed"
    id = models.IntegerField(primary_key=True)
    a = models.IntegerField()
    b = models.TextField()
    c = models.TextField()
    d = models.DecimalField(max_digits=30, decimal_places=16)
    e = models.DateTimeField()
    f = models.BooleanField()
    g = models.UUIDField()

    class Meta:
        app_label = "bench"
        db_table = "followed"


if __name__ == "__main__":
    if "followed" not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Item)
    connection.close()
    call_command("cqrs_consume", workers=int(WORKERS))

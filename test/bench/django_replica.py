"""The real django-cqrs as a replica: how fast messages become rows.

    django_replica.py URL QUEUE WORKERS

Makes the table "followed" of the database that libpq's environment says, and
runs the command cqrs_consume with that many workers.  Each worker is a process
that imports this file anew.
"""

import sys

import django_item

URL, QUEUE, WORKERS = sys.argv[1:4]

# The defaults, which are filled in only for apps with models.
django_item.configure(
    URL, queue=QUEUE,
    replica={"CQRS_MAX_RETRIES": 30, "CQRS_RETRY_DELAY": 2,
             "delay_queue_max_size": 1000})

from dj_cqrs.mixins import ReplicaMixin  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

Item = django_item.model(ReplicaMixin, "followed")

if __name__ == "__main__":
    if "followed" not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Item)
    connection.close()
    call_command("cqrs_consume", workers=int(WORKERS))

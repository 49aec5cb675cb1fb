"""The Django service of the benchmark: its settings and its model.

Database and broker: libpq's environment, and the URL that is given.
"""

import os

import django
from django.conf import settings


def configure(url, **cqrs):
    """Sets Django up, with these parts of the setting CQRS besides."""
    settings.configure(
        SECRET_KEY="not secret", USE_TZ=True, INSTALLED_APPS=["dj_cqrs"],
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql",
                               "NAME": os.environ["PGDATABASE"],
                               "HOST": os.environ["PGHOST"],
                               "PORT": os.environ["PGPORT"]}},
        CQRS={"transport": "dj_cqrs.transport.RabbitMQTransport", "url": url,
              "exchange": "cqrs", **cqrs})
    django.setup()


def model(mixin, name):
    """A model with the benchmark's columns: its CQRS_ID and table have the name."""
    from django.db import models

    class Item(mixin):
        CQRS_ID = name
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
            db_table = name

    return Item

"""Settings of a service, by its environment.

INTEROP_ROLE is master, replica, kombu or redis; INTEROP_DB its database (all else of
the connection is libpq's own environment); INTEROP_URL the broker.  A master
has a second database under the alias "shared": the one that this extension
publishes, too.
"""

import os

ROLE = os.environ["INTEROP_ROLE"]


def correlation(signal_type, cqrs_id, instance_pk, queue):
    """The correlation function of the Python master."""
    return None if cqrs_id != "author" else f"{signal_type} {cqrs_id} {queue}"


SECRET_KEY = "not secret"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = [
    "django.contrib.postgres",
    "dj_cqrs",
    "master" if ROLE == "master" else "replica",
]


def database(name):
    return {"ENGINE": "django.db.backends.postgresql", "NAME": name}


DATABASES = {"default": database(os.environ["INTEROP_DB"])}
if "INTEROP_SHARED_DB" in os.environ:
    DATABASES["shared"] = database(os.environ["INTEROP_SHARED_DB"])

TRANSPORTS = {
    "kombu": "dj_cqrs.transport.KombuTransport",
    "redis": "dj_cqrs.transport.KombuTransport",
    "replica": "dj_cqrs.transport.RabbitMQTransport",
    "master": "dj_cqrs.transport.RabbitMQTransport",
}
CQRS = {
    "transport": TRANSPORTS[ROLE],
    "url": os.environ["INTEROP_URL"],
    "exchange": os.environ.get("INTEROP_EXCHANGE", "cqrs"),
}
if ROLE == "master":
    CQRS["master"] = {"correlation_function": correlation}
else:
    CQRS["queue"] = ROLE
    CQRS["replica"] = {"CQRS_MAX_RETRIES": 3, "CQRS_RETRY_DELAY": 0}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
    },
    "loggers": {
        "django-cqrs": {
            "handlers": ["stderr"],
            "level": "WARNING" if ROLE == "master" else "INFO",
        },
    },
}

"""The models of a service that has replicas, each using another of their
features."""

import logging
from collections import Counter

from dj_cqrs.mixins import ReplicaMixin
from django.contrib.postgres import fields as pg
from django.db import models

attempts = Counter()
logger = logging.getLogger("django-cqrs")


class Plain(ReplicaMixin):
    """Fails as often as its name says: "fail 2" is applied the third time."""

    CQRS_ID = "plain"
    id = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=100)
    number = models.IntegerField(null=True)

    @classmethod
    def cqrs_create(cls, sync, mapped_data, **kwargs):
        word, _, times = mapped_data["name"].partition(" ")
        if word == "fail":
            attempts[mapped_data["id"]] += 1
            if attempts[mapped_data["id"]] <= int(times):
                raise RuntimeError("fails on purpose")
        return super().cqrs_create(sync, mapped_data, **kwargs)

    class Meta:
        db_table = "plain"


class Kept(models.Model):
    """Keeps what came along with the row."""

    previous = models.JSONField(null=True)
    meta = models.JSONField(null=True)

    class Meta:
        abstract = True

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        return cls._default_manager.create(
            previous=previous_data, meta=meta, **mapped_data)

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        self.previous, self.meta = previous_data, meta
        return super().cqrs_update(sync, mapped_data)


class Author(Kept, ReplicaMixin):
    CQRS_ID = "author"
    CQRS_META = True
    id = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=100)
    born = models.DateField(null=True)

    class Meta:
        db_table = "author"


class Book(Kept, ReplicaMixin):
    CQRS_ID = "book"
    CQRS_MAPPING = {"id": "number", "title": "name", "author": "writer"}
    number = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=100)
    writer = models.IntegerField()

    class Meta:
        db_table = "book"


class Shelf(ReplicaMixin):
    CQRS_ID = "shelf"
    CQRS_CUSTOM_SERIALIZATION = True
    id = models.IntegerField(primary_key=True)
    label = models.TextField()

    @staticmethod
    def flat(mapped_data):
        return {**mapped_data, "label": mapped_data["label"]["text"]}

    @classmethod
    def cqrs_create(cls, sync, mapped_data, **kwargs):
        return super().cqrs_create(sync, cls.flat(mapped_data), **kwargs)

    def cqrs_update(self, sync, mapped_data, **kwargs):
        return super().cqrs_update(sync, self.flat(mapped_data), **kwargs)

    class Meta:
        db_table = "shelf"


class Country(ReplicaMixin):
    CQRS_ID = "country"
    CQRS_ONLY_DIRECT_SYNCS = True
    code = models.CharField(max_length=2, primary_key=True)
    name = models.TextField()

    class Meta:
        db_table = "country"


class Token(ReplicaMixin):
    CQRS_ID = "token"
    CQRS_SELECT_FOR_UPDATE = True
    id = models.UUIDField(primary_key=True)
    note = models.TextField(null=True)

    class Meta:
        db_table = "token"


class Types(ReplicaMixin):
    CQRS_ID = "types"
    id = models.IntegerField(primary_key=True)
    small = models.SmallIntegerField(null=True)
    whole = models.IntegerField(null=True)
    big = models.BigIntegerField(null=True)
    real = models.FloatField(null=True)
    numeric = models.DecimalField(max_digits=40, decimal_places=3, null=True)
    flag = models.BooleanField(null=True)
    text = models.TextField(null=True)
    short = models.CharField(max_length=20, null=True)
    day = models.DateField(null=True)
    moment = models.DateTimeField(null=True)
    uid = models.UUIDField(null=True)
    data = models.JSONField(null=True)
    numbers = pg.ArrayField(models.IntegerField(null=True), null=True)
    words = pg.ArrayField(pg.ArrayField(models.TextField()), null=True)
    pairs = pg.HStoreField(null=True)
    address = models.GenericIPAddressField(null=True)

    class Meta:
        db_table = "types"


class Strange(ReplicaMixin):
    """Only bytes need a hand: JSON has none."""

    CQRS_ID = "strange"
    CQRS_CUSTOM_SERIALIZATION = True
    id = models.IntegerField(primary_key=True)
    clock = models.TimeField(null=True)
    span = models.DurationField(null=True)
    bytes = models.BinaryField(null=True)
    ints = pg.IntegerRangeField(null=True)
    days = pg.ArrayField(models.DateField(), null=True)
    uids = pg.ArrayField(models.UUIDField(), null=True)

    @staticmethod
    def binary(mapped_data):
        text = mapped_data["bytes"]
        return {
            **mapped_data,
            "bytes": text and bytes.fromhex(text.removeprefix("\\x")),
        }

    @classmethod
    def cqrs_create(cls, sync, mapped_data, **kwargs):
        return super().cqrs_create(sync, cls.binary(mapped_data), **kwargs)

    def cqrs_update(self, sync, mapped_data, **kwargs):
        return super().cqrs_update(sync, self.binary(mapped_data), **kwargs)

    class Meta:
        db_table = "strange"


class Signal(ReplicaMixin):
    """Keeps nothing, and says what it gets; decides itself what is tried
    again."""

    CQRS_ID = "signal"
    CQRS_META = True
    CQRS_NO_DB_OPERATIONS = True
    id = models.IntegerField(primary_key=True)

    @classmethod
    def cqrs_save(cls, master_data, previous_data=None, sync=False, meta=None):
        name = master_data["name"]
        logger.info("signal: %s %s %s", "SYNC" if sync else "SAVE", name, meta)
        if name.startswith("fail"):
            raise RuntimeError("fails on purpose")
        return True

    @classmethod
    def cqrs_delete(cls, master_data, meta=None):
        logger.info("signal: DELETE %s %s %s", master_data["id"],
                    master_data.get("custom"), meta)
        return True

    @staticmethod
    def should_retry_cqrs(current_retry, exception=None):
        return isinstance(exception, RuntimeError) and current_retry < 1

    @staticmethod
    def get_cqrs_retry_delay(current_retry):
        return current_retry

    class Meta:
        db_table = "signal"


class Marker(ReplicaMixin):
    CQRS_ID = "marker"
    id = models.IntegerField(primary_key=True)

    class Meta:
        db_table = "marker"

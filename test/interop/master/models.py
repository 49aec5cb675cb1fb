"""The models of a service that has django-cqrs's own master.

Their tables become masters of this extension as well, by masters.sql, which
says of each what its model says here.
"""

from dj_cqrs.mixins import MasterMixin
from django.contrib.postgres import fields as pg
from django.db import models


class Plain(MasterMixin):
    CQRS_ID = "plain"
    name = models.CharField(max_length=100)
    number = models.IntegerField(null=True)

    class Meta:
        db_table = "plain"


class Author(MasterMixin):
    CQRS_ID = "author"
    CQRS_TRACKED_FIELDS = "__all__"
    name = models.CharField(max_length=100)
    born = models.DateField(null=True)

    def get_cqrs_meta(self, **kwargs):
        return {"signal": kwargs["signal_type"], "name": self.name}

    class Meta:
        db_table = "author"


class Book(MasterMixin):
    CQRS_ID = "book"
    CQRS_FIELDS = ["id", "title", "author"]
    CQRS_TRACKED_FIELDS = ["title", "author"]
    title = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=30, decimal_places=2, null=True)
    author = models.ForeignKey(Author, on_delete=models.CASCADE)

    def is_sync_instance(self):
        return self.title != "draft"

    def get_custom_cqrs_delete_data(self):
        return {"title": self.title}

    class Meta:
        db_table = "book"


class ShelfData:
    """A serializer, as Django REST Framework's are used."""

    def __init__(self, shelf):
        self.data = {"id": shelf.pk, "label": {"text": shelf.label}}


class Shelf(MasterMixin):
    CQRS_ID = "shelf"
    CQRS_SERIALIZER = "master.models.ShelfData"
    label = models.TextField()

    class Meta:
        db_table = "shelf"


class Country(MasterMixin):
    CQRS_ID = "country"
    code = models.CharField(max_length=2, primary_key=True)
    name = models.TextField()

    class Meta:
        db_table = "country"


class Token(MasterMixin):
    CQRS_ID = "token"
    id = models.UUIDField(primary_key=True)
    note = models.TextField(null=True)

    class Meta:
        db_table = "token"


class Types(MasterMixin):
    """What a Python master can send."""

    CQRS_ID = "types"
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


class Strange(MasterMixin):
    """What a Python master cannot send."""

    CQRS_ID = "strange"
    clock = models.TimeField(null=True)
    span = models.DurationField(null=True)
    bytes = models.BinaryField(null=True)
    ints = pg.IntegerRangeField(null=True)
    days = pg.ArrayField(models.DateField(), null=True)
    uids = pg.ArrayField(models.UUIDField(), null=True)

    class Meta:
        db_table = "strange"


class Signal(MasterMixin):
    CQRS_ID = "signal"
    name = models.TextField()

    class Meta:
        db_table = "signal"


class PlainAlone(models.Model):
    """The table of Plain when the model is no master any more."""

    name = models.CharField(max_length=100)
    number = models.IntegerField(null=True)
    cqrs_revision = models.IntegerField(default=0, editable=False)
    cqrs_updated = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "plain"
        managed = False


class Marker(MasterMixin):
    CQRS_ID = "marker"

    class Meta:
        db_table = "marker"

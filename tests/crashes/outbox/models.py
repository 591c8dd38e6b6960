"""Where local effects are counted: no constraint forbids a second one, for it has to be seen."""

from django.db import models


class Effect(models.Model):
    """One event's effect in one group; within an aggregate, ids are in the order of commit."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=60)
    aggregate = models.CharField(max_length=64)
    sequence = models.BigIntegerField()
    worker = models.IntegerField()


class Delivery(models.Model):
    """An event that reached the bank's handler, as often as it did; `found`: the order was there already."""

    id = models.BigAutoField(primary_key=True)
    reference = models.CharField(max_length=80)
    found = models.BooleanField()
    worker = models.IntegerField()

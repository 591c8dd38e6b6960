"""Whoever may have a subscription synced requests it: the verb is one that groups know."""

from django.db import migrations

SYNC = ("request_sync", "Can have a subscription compared with its contract and synced")


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_owners")]
    operations = [migrations.AlterModelOptions("subscriptionsync", {"permissions": (SYNC,)})]

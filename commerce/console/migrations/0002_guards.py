"""The states a review item may go through."""

from django.db import migrations

from commerce import guards

PAIRS = [
    ("open", "claimed"),
    ("snoozed", "claimed"),
    ("claimed", "open"),
    ("open", "snoozed"),
    ("claimed", "snoozed"),
    ("open", "resolved"),
    ("claimed", "resolved"),
    ("snoozed", "resolved"),
]


class Migration(migrations.Migration):
    dependencies = [("console", "0001_initial"), ("commerce", "0002_guards")]
    operations = [guards.state_guard("console_reviewitem", "status", initial=["open"], pairs=PAIRS)]

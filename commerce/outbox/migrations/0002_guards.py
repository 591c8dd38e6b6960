"""Events are facts: only `published_at` may be set later."""

from django.db import migrations

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("outbox", "0001_initial"), ("commerce", "0002_guards")]
    operations = [guards.updatable_only("outbox_outboxevent", ["published_at"])]

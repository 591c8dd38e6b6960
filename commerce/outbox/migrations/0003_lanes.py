"""Streams know their lane and since when something waits; failures are kept, providers have a circuit."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

from commerce import guards

# What the groups of that day were drained by; from here on every wake-up and every deployment says it anew.
KNOWN_LANES = """
UPDATE outbox_outboxstream s
SET lane = CASE WHEN "group" LIKE '%.openmeter' THEN 'openmeter'
                WHEN "group" LIKE '%.modern_treasury' OR "group" = 'payouts.poll' THEN 'modern_treasury'
                ELSE 'local' END,
    lease_token = NULL,
    pending_since = CASE WHEN due_at IS NOT NULL OR parked_at IS NOT NULL THEN COALESCE((
      SELECT min(recorded_at) FROM outbox_outboxevent e
      WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id
        AND e.sequence > s.cursor), now()) END
WHERE "group" <> ''
"""


class Migration(migrations.Migration):
    dependencies = [("outbox", "0002_guards")]

    operations = [
        migrations.CreateModel(
            name="Circuit",
            fields=[
                ("lane", models.CharField(max_length=40, primary_key=True, serialize=False)),
                ("failures", models.PositiveIntegerField(default=0)),
                (
                    "streams",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), default=list, size=None
                    ),
                ),
                ("trips", models.PositiveIntegerField(default=0)),
                ("opened_at", models.DateTimeField(null=True)),
                ("open_until", models.DateTimeField(null=True)),
                ("last_error", models.TextField(blank=True, default="")),
                (
                    "paused_at",
                    models.DateTimeField(
                        help_text="A person stopped the lane; only a person goes on.", null=True
                    ),
                ),
                ("paused_reason", models.TextField(blank=True, default="")),
            ],
        ),
        migrations.CreateModel(
            name="OutboxFailure",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("event_id", models.UUIDField()),
                ("type", models.CharField(max_length=80)),
                ("group", models.CharField(max_length=60)),
                (
                    "attempt",
                    models.PositiveIntegerField(help_text="Counted from 1 since the stream last went on."),
                ),
                ("error", models.TextField()),
                ("retryable", models.BooleanField()),
                ("failed_at", models.DateTimeField()),
            ],
        ),
        migrations.RemoveConstraint(model_name="outboxstream", name="parked_stream_is_not_due"),
        migrations.RemoveIndex(model_name="outboxstream", name="stream_due"),
        migrations.RemoveField(model_name="outboxstream", name="lease_until"),
        migrations.AddField(
            model_name="outboxstream",
            name="lane",
            field=models.CharField(
                blank=True,
                default="",
                help_text="Who drains it: local, batch or a provider's name.",
                max_length=40,
            ),
        ),
        migrations.AddField(
            model_name="outboxstream",
            name="pending_since",
            field=models.DateTimeField(
                help_text="No event after the cursor was recorded before; NULL when there is none.", null=True
            ),
        ),
        migrations.RunSQL(KNOWN_LANES, migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name="outboxstream",
            index=models.Index(
                condition=models.Q(("due_at__isnull", False)), fields=["lane", "due_at"], name="stream_due"
            ),
        ),
        migrations.AddConstraint(
            model_name="outboxstream",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("parked_at__isnull", True),
                    models.Q(("due_at__isnull", True), ("lease_token__isnull", True)),
                    _connector="OR",
                ),
                name="parked_stream_is_not_due",
            ),
        ),
        migrations.AddConstraint(
            model_name="outboxstream",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("due_at__isnull", True), ("pending_since__isnull", False), _connector="OR"
                ),
                name="due_stream_has_events",
            ),
        ),
        migrations.AddConstraint(
            model_name="outboxstream",
            constraint=models.CheckConstraint(
                condition=models.Q(("lease_token__isnull", True), ("due_at__isnull", False), _connector="OR"),
                name="leased_stream_has_an_end",
            ),
        ),
        migrations.AddConstraint(
            model_name="circuit",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("open_until__isnull", True), ("opened_at__isnull", True)),
                    models.Q(("open_until__isnull", False), ("opened_at__isnull", False)),
                    _connector="OR",
                ),
                name="open_circuit_has_an_end",
            ),
        ),
        migrations.AddField(
            model_name="outboxfailure",
            name="stream",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="failures",
                to="outbox.outboxstream",
            ),
        ),
        migrations.AddIndex(
            model_name="outboxfailure", index=models.Index(fields=["stream", "-id"], name="failure_by_stream")
        ),
        migrations.AddIndex(
            model_name="outboxfailure", index=models.Index(fields=["event_id"], name="failure_by_event")
        ),
        guards.append_only("outbox_outboxfailure"),
    ]

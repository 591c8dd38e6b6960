"""What two people let a stream go on without is kept, and what an event caused is found by its id."""

import django.db.models.deletion
import django.db.models.fields.json
from django.db import migrations, models

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("outbox", "0003_lanes")]

    operations = [
        migrations.CreateModel(
            name="OutboxSkip",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("event_id", models.UUIDField()),
                ("sequence", models.BigIntegerField()),
                ("type", models.CharField(max_length=80)),
                ("group", models.CharField(max_length=60)),
                ("error", models.TextField(help_text="What the stream was parked for.")),
                ("reason", models.TextField()),
                ("requested_by", models.CharField(max_length=120)),
                ("approved_by", models.CharField(max_length=120)),
                ("skipped_at", models.DateTimeField(help_text="Business time.")),
                ("recorded_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "permissions": (("approve_skip", "Can agree that a stream goes on without an event"),),
                "default_permissions": ("view",),
            },
        ),
        migrations.AddIndex(
            model_name="outboxevent",
            index=models.Index(
                django.db.models.fields.json.KeyTextTransform("causation_id", "headers"),
                condition=models.Q(("headers__has_key", "causation_id")),
                name="event_by_cause",
            ),
        ),
        migrations.AddField(
            model_name="outboxskip",
            name="stream",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="skips",
                to="outbox.outboxstream",
            ),
        ),
        migrations.AddIndex(
            model_name="outboxskip", index=models.Index(fields=["stream", "-id"], name="skip_by_stream")
        ),
        migrations.AddConstraint(
            model_name="outboxskip",
            constraint=models.UniqueConstraint(fields=("event_id", "group"), name="skip_once"),
        ),
        migrations.AddConstraint(
            model_name="outboxskip",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("approved_by__startswith", "user:"),
                    ("requested_by__startswith", "user:"),
                    models.Q(("requested_by", models.F("approved_by")), _negated=True),
                ),
                name="skip_by_two_people",
            ),
        ),
        migrations.AddConstraint(
            model_name="outboxskip",
            constraint=models.CheckConstraint(
                condition=models.Q(("reason", ""), _negated=True), name="skip_has_reason"
            ),
        ),
        guards.append_only("outbox_outboxskip"),
    ]

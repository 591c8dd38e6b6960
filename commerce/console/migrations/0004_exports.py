"""Exports: files that a worker makes; what was asked for never changes, and the row outlives its file."""

import django.db.models.deletion
import django_fsm
from django.db import migrations, models

import commerce.ids
from commerce import guards

PAIRS = [
    ("requested", "running"),
    ("running", "completed"),
    ("requested", "failed"),
    ("running", "failed"),
    ("completed", "expired"),
]
CHANGING = [
    "status", "rows_total", "rows_done", "attempts", "lease_token", "lease_until", "error", "size", "sha256",
    "totals", "completed_at", "expires_at",
]  # fmt: skip


class Migration(migrations.Migration):
    dependencies = [("console", "0003_approvals"), ("parties", "0002_guards")]

    operations = [
        migrations.CreateModel(
            name="Export",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "source",
                    models.CharField(help_text="A registered source, e.g. ledger.entries.", max_length=60),
                ),
                (
                    "format",
                    models.CharField(
                        choices=[("csv", "CSV"), ("xlsx", "Excel (XLSX)"), ("jsonl", "JSON lines")],
                        max_length=8,
                    ),
                ),
                ("parameters", models.JSONField(default=dict)),
                (
                    "status",
                    django_fsm.FSMField(
                        choices=[
                            ("requested", "Requested"),
                            ("running", "Running"),
                            ("completed", "Completed"),
                            ("failed", "Failed"),
                            ("expired", "Expired"),
                        ],
                        default="requested",
                        max_length=50,
                    ),
                ),
                ("requested_by", models.CharField(max_length=150)),
                ("requested_at", models.DateTimeField(help_text="Business time.")),
                ("recorded_at", models.DateTimeField(auto_now_add=True)),
                ("rows_total", models.BigIntegerField(null=True)),
                ("rows_done", models.BigIntegerField(default=0)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("lease_token", models.UUIDField(null=True)),
                ("lease_until", models.DateTimeField(help_text="System time.", null=True)),
                ("error", models.TextField(blank=True, default="")),
                ("size", models.BigIntegerField(help_text="Bytes.", null=True)),
                ("sha256", models.CharField(blank=True, default="", help_text="Of the file.", max_length=64)),
                ("totals", models.JSONField(default=dict, help_text="Minor units per currency and column.")),
                ("completed_at", models.DateTimeField(help_text="System time.", null=True)),
                (
                    "expires_at",
                    models.DateTimeField(help_text="System time at which the file is removed.", null=True),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        help_text="Only what belongs to it; everything when there is none.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="parties.organization",
                    ),
                ),
            ],
            options={
                "permissions": (("request_export", "Can have exports made"),),
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("status__in", ["requested", "running"])),
                        fields=["id"],
                        name="export_due",
                    ),
                    models.Index(
                        condition=models.Q(("status", "completed")),
                        fields=["expires_at"],
                        name="export_expiring",
                    ),
                    models.Index(fields=["organization", "-id"], name="export_of_organization"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status__in", ["completed", "expired"]), _negated=True),
                            models.Q(
                                models.Q(("sha256", ""), _negated=True),
                                ("completed_at__isnull", False),
                                ("expires_at__isnull", False),
                            ),
                            _connector="OR",
                        ),
                        name="export_completed_has_its_file",
                    )
                ],
            },
        ),
        guards.updatable_only("console_export", CHANGING),
        guards.state_guard("console_export", "status", initial=["requested"], pairs=PAIRS),
    ]

"""Approvals: what was asked and by whom never changes, and once decided nothing does."""

import django_fsm
from django.db import migrations, models

import commerce.ids
from commerce import guards

# The state's own guard runs after the row is written; this one keeps the other columns of a decided row.
DECIDED = """
CREATE FUNCTION console_keep_decided() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'an approval that is % is never changed', OLD.status USING ERRCODE = '23514';
END $$;
CREATE TRIGGER guard_decided BEFORE UPDATE ON console_approval
  FOR EACH ROW WHEN (OLD.status <> 'pending') EXECUTE FUNCTION console_keep_decided();
ALTER TABLE console_approval ENABLE ALWAYS TRIGGER guard_decided;
"""
DECIDED_UNDO = "DROP TRIGGER guard_decided ON console_approval; DROP FUNCTION console_keep_decided;"

CHANGING = ("status", "checker", "checker_name", "decided_at", "decision", "result_type", "result_id")
DECISIONS = ("approved", "rejected", "expired", "cancelled")


class Migration(migrations.Migration):
    dependencies = [("console", "0002_guards"), ("commerce", "0002_guards")]

    operations = [
        migrations.CreateModel(
            name="Approval",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "operation",
                    models.CharField(help_text="Name in the registry, e.g. ledger.reverse.", max_length=60),
                ),
                ("title", models.CharField(help_text="The operation in words.", max_length=120)),
                (
                    "subject_type",
                    models.CharField(help_text="Model of the subject, e.g. billing.invoice.", max_length=80),
                ),
                ("subject_id", models.CharField(max_length=64)),
                ("arguments", models.JSONField(default=dict)),
                ("sha256", models.CharField(help_text="Of operation, subject and arguments.", max_length=64)),
                (
                    "key",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="The requester's name for it, if any; once.",
                        max_length=200,
                    ),
                ),
                ("reason", models.TextField()),
                (
                    "value_minor",
                    models.BigIntegerField(help_text="What is at stake, in minor units.", null=True),
                ),
                ("currency", models.CharField(blank=True, default="", max_length=5)),
                (
                    "status",
                    django_fsm.FSMField(
                        choices=[
                            ("pending", "Pending"),
                            ("approved", "Approved"),
                            ("rejected", "Rejected"),
                            ("expired", "Expired"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="pending",
                        max_length=50,
                    ),
                ),
                ("maker", models.CharField(max_length=120)),
                ("maker_name", models.CharField(max_length=150)),
                ("requested_at", models.DateTimeField(help_text="Business time, like the following.")),
                ("expires_at", models.DateTimeField()),
                (
                    "checker",
                    models.CharField(
                        blank=True, default="", help_text="Who approved or rejected.", max_length=120
                    ),
                ),
                ("checker_name", models.CharField(blank=True, default="", max_length=150)),
                ("decided_at", models.DateTimeField(null=True)),
                ("decision", models.TextField(blank=True, default="", help_text="Why it was decided so.")),
                (
                    "result_type",
                    models.CharField(
                        blank=True, default="", help_text="Model of what it made.", max_length=80
                    ),
                ),
                ("result_id", models.CharField(blank=True, default="", max_length=64)),
                ("recorded_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "indexes": [
                    models.Index(fields=["subject_type", "subject_id", "-id"], name="approval_subject"),
                    models.Index(fields=["status", "-id"], name="approval_by_status"),
                    models.Index(
                        condition=models.Q(("status", "pending")),
                        fields=["expires_at"],
                        name="approval_waiting",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("status", "pending")),
                        fields=("operation", "subject_type", "subject_id", "sha256"),
                        name="approval_pending_once",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("key", ""), _negated=True),
                        fields=("key",),
                        name="approval_key_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("checker", ""),
                            models.Q(("checker", models.F("maker")), _negated=True),
                            _connector="OR",
                        ),
                        name="approval_maker_is_not_checker",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("checker__startswith", "system:"), _negated=True),
                        name="approval_checker_is_no_system",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("checker", ""), ("decided_at__isnull", True), ("status", "pending")),
                            models.Q(
                                ("decided_at__isnull", False),
                                ("status__in", ["approved", "rejected"]),
                                models.Q(("checker", ""), _negated=True),
                            ),
                            models.Q(
                                ("checker", ""),
                                ("decided_at__isnull", False),
                                ("status__in", ["expired", "cancelled"]),
                            ),
                            _connector="OR",
                        ),
                        name="approval_decided_by_somebody",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status", "approved"), _negated=True),
                            ("decided_at__lt", models.F("expires_at")),
                            _connector="OR",
                        ),
                        name="approval_approved_in_time",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("expires_at__gt", models.F("requested_at"))),
                        name="approval_expires_later",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("reason", ""), _negated=True), name="approval_has_reason"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("result_id", ""), ("result_type", "")),
                            models.Q(
                                ("status", "approved"),
                                models.Q(("result_type", ""), _negated=True),
                                models.Q(("result_id", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="approval_result_when_approved",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("value_minor__isnull", True),
                            models.Q(("currency", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="approval_value_has_currency",
                    ),
                ],
            },
        ),
        guards.updatable_only("console_approval", CHANGING),
        guards.state_guard(
            "console_approval",
            "status",
            initial=["pending"],
            pairs=[("pending", decision) for decision in DECISIONS],
        ),
        migrations.RunSQL(DECIDED, DECIDED_UNDO),
    ]

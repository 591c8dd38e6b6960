"""Scheduled commands: what the log implies for later instants, each done once."""

import django.db.models.deletion
import django_fsm
from django.db import migrations, models

import commerce.ids
from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("contracts", "0008_edit_log")]

    operations = [
        migrations.CreateModel(
            name="ScheduledCommand",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("key", models.CharField(max_length=120, unique=True)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("notice", "Renewal notice"),
                            ("opt_out", "Last moment to opt out"),
                            ("resume", "End of a suspension"),
                            ("renewal", "Renewal"),
                            ("activation_timeout", "End of the wait for activation"),
                        ],
                        max_length=24,
                    ),
                ),
                ("due_at", models.DateTimeField(help_text="Business time as of which it is done.")),
                ("operation", models.CharField(blank=True, default="", max_length=24)),
                ("payload", models.JSONField(default=dict)),
                (
                    "status",
                    django_fsm.FSMField(
                        choices=[
                            ("planned", "Planned"),
                            ("done", "Done"),
                            ("skipped", "Skipped"),
                            ("blocked", "Blocked"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="planned",
                        max_length=20,
                    ),
                ),
                ("attempts", models.PositiveSmallIntegerField(default=0, help_text="How often it failed.")),
                ("last_error", models.CharField(blank=True, default="", max_length=500)),
                (
                    "retry_at",
                    models.DateTimeField(blank=True, help_text="System time of the next attempt.", null=True),
                ),
                (
                    "result_seq",
                    models.PositiveIntegerField(
                        blank=True, help_text="The edit that it recorded.", null=True
                    ),
                ),
                (
                    "planned_at",
                    models.DateTimeField(help_text="Business time at which it was planned as it stands."),
                ),
                (
                    "finished_at",
                    models.DateTimeField(blank=True, help_text="Business time at which it ended.", null=True),
                ),
                ("recorded_at", models.DateTimeField(auto_now_add=True)),
                (
                    "contract",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="schedule",
                        to="contracts.contract",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (
                    ("cancel_scheduledcommand", "Can skip scheduled commands"),
                    ("retry_scheduledcommand", "Can try blocked commands again"),
                ),
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("status", "planned")),
                        fields=["due_at", "contract"],
                        name="scheduled_command_due",
                    ),
                    models.Index(fields=["contract", "due_at"], name="scheduled_command_of"),
                    models.Index(fields=["status", "-id"], name="scheduled_command_by_status"),
                    models.Index(fields=["kind", "-id"], name="scheduled_command_by_kind"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("finished_at__isnull", True), ("status", "planned")),
                            models.Q(
                                models.Q(("status", "planned"), _negated=True), ("finished_at__isnull", False)
                            ),
                            _connector="OR",
                        ),
                        name="scheduled_command_ended_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("result_seq__isnull", True),
                            models.Q(("status", "planned"), _negated=True),
                            _connector="OR",
                        ),
                        name="scheduled_command_result_at_end",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("operation", ""),
                            (
                                "operation__in",
                                (
                                    "create",
                                    "activate",
                                    "add_product",
                                    "remove_product",
                                    "change_quantity",
                                    "change_price",
                                    "apply_discount",
                                    "set_commitment",
                                    "attach_financing",
                                    "change_terms",
                                    "renew",
                                    "suspend",
                                    "resume",
                                    "terminate",
                                    "transfer_ownership",
                                    "correct",
                                ),
                            ),
                            _connector="OR",
                        ),
                        name="scheduled_command_operation",
                    ),
                ],
            },
        ),
        guards.updatable_only(
            "contracts_scheduledcommand",
            [
                "due_at",
                "payload",
                "status",
                "attempts",
                "last_error",
                "retry_at",
                "result_seq",
                "planned_at",
                "finished_at",
            ],
        ),
        guards.state_guard(
            "contracts_scheduledcommand",
            "status",
            initial=["planned"],
            pairs=[
                ("planned", "done"),
                ("planned", "blocked"),
                ("planned", "cancelled"),
                ("planned", "skipped"),
                ("blocked", "cancelled"),
                ("blocked", "skipped"),
                ("blocked", "planned"),
                ("cancelled", "planned"),
            ],
        ),
    ]

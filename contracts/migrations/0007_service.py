"""Reports on units, append-only, and the status of each unit that they come to."""

import django.db.models.deletion
from django.db import migrations, models

import commerce.ids
from commerce import guards

# AFTER, so that a report and its correction may come in one statement.
CORRECTS = """
CREATE FUNCTION contracts_require_corrected_report() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM contracts_serviceevent t
     WHERE t.id = NEW.corrects_id AND t.corrects_id IS NULL AND t.unit_id = NEW.unit_id
       AND t.contract_id = NEW.contract_id AND t.line_id = NEW.line_id) THEN
    RAISE EXCEPTION 'service event % corrects no report of its own unit and line', NEW.id
      USING ERRCODE = '23514';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER guard_corrects AFTER INSERT ON contracts_serviceevent FOR EACH ROW
  WHEN (NEW.corrects_id IS NOT NULL) EXECUTE FUNCTION contracts_require_corrected_report();
ALTER TABLE contracts_serviceevent ENABLE ALWAYS TRIGGER guard_corrects;
"""
CORRECTS_UNDO = """
DROP TRIGGER guard_corrects ON contracts_serviceevent;
DROP FUNCTION contracts_require_corrected_report;
"""


class Migration(migrations.Migration):
    dependencies = [("contracts", "0006_offers"), ("commerce", "0002_guards")]

    operations = [
        migrations.CreateModel(
            name="ServiceEvent",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("line_id", models.UUIDField()),
                ("unit_id", models.CharField(help_text="As the data centre names it.", max_length=120)),
                ("at", models.DateTimeField(help_text="Business time from which it was so.")),
                ("received_at", models.DateTimeField(help_text="Business time at which we were told.")),
                ("recorded_at", models.DateTimeField(help_text="Database time.")),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("down", "Down"),
                            ("access_blocked", "Access blocked"),
                            ("degraded", "Degraded"),
                            ("maintenance", "Maintenance"),
                            ("provisioning", "Provisioning"),
                            ("in_service", "In service"),
                            ("not_started", "Not started"),
                            ("deprovisioning", "Deprovisioning"),
                            ("released", "Released"),
                            ("access_restored", "Access restored"),
                            ("void", "Void"),
                        ],
                        max_length=20,
                    ),
                ),
                ("source", models.CharField(max_length=120)),
                ("source_event_id", models.CharField(max_length=200)),
                ("detail", models.JSONField(default=dict)),
                ("actor", models.CharField(max_length=200)),
                (
                    "contract",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="service_events",
                        to="contracts.contract",
                    ),
                ),
                (
                    "corrects",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="corrections",
                        to="contracts.serviceevent",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (("record_serviceevent", "Can report what units are doing"),),
                "indexes": [
                    models.Index(
                        fields=["contract", "line_id", "unit_id", "at"], name="service_event_of_unit"
                    ),
                    models.Index(
                        condition=models.Q(("corrects__isnull", False)),
                        fields=["corrects"],
                        name="service_event_corrects",
                    ),
                    models.Index(fields=["state", "-id"], name="service_event_by_state"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("unit_id", "source", "source_event_id"), name="service_event_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "state__in",
                                (
                                    "down",
                                    "access_blocked",
                                    "degraded",
                                    "maintenance",
                                    "provisioning",
                                    "in_service",
                                    "not_started",
                                    "deprovisioning",
                                    "released",
                                    "access_restored",
                                    "void",
                                ),
                            )
                        ),
                        name="service_event_state_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("state", "void"), _negated=True),
                            ("corrects__isnull", False),
                            _connector="OR",
                        ),
                        name="service_event_void_corrects",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="UnitStatus",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("line_id", models.UUIDField()),
                ("unit_id", models.CharField(max_length=120)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("down", "Down"),
                            ("access_blocked", "Access blocked"),
                            ("degraded", "Degraded"),
                            ("maintenance", "Maintenance"),
                            ("provisioning", "Provisioning"),
                            ("in_service", "In service"),
                            ("not_started", "Not started"),
                            ("deprovisioning", "Deprovisioning"),
                            ("released", "Released"),
                        ],
                        default="not_started",
                        max_length=20,
                    ),
                ),
                ("since", models.DateTimeField(blank=True, null=True)),
                (
                    "first_at",
                    models.DateTimeField(blank=True, help_text="Of the first report that counts.", null=True),
                ),
                (
                    "irregular",
                    models.PositiveIntegerField(
                        default=0, help_text="Reports that no declared transition leads to."
                    ),
                ),
                (
                    "projected_at",
                    models.DateTimeField(help_text="Business instant whose state this row shows."),
                ),
                (
                    "next_due_at",
                    models.DateTimeField(
                        blank=True, help_text="When the state may change without a new report.", null=True
                    ),
                ),
                (
                    "contract",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="units",
                        to="contracts.contract",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "unit statuses",
                "ordering": ("-id",),
                "indexes": [
                    models.Index(
                        fields=["unit_id"], name="unit_status_of_unit", opclasses=["text_pattern_ops"]
                    ),
                    models.Index(fields=["state", "-id"], name="unit_status_by_state"),
                    models.Index(
                        condition=models.Q(("next_due_at__isnull", False)),
                        fields=["next_due_at"],
                        name="unit_status_due",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("contract", "line_id", "unit_id"), name="unit_status_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "state__in",
                                (
                                    "down",
                                    "access_blocked",
                                    "degraded",
                                    "maintenance",
                                    "provisioning",
                                    "in_service",
                                    "not_started",
                                    "deprovisioning",
                                    "released",
                                ),
                            )
                        ),
                        name="unit_status_state_known",
                    ),
                ],
            },
        ),
        guards.append_only("contracts_serviceevent"),
        migrations.RunSQL(CORRECTS, CORRECTS_UNDO),
    ]

"""What units in service are billed for, and when OpenMeter had it: its delay explains a difference."""

import django.db.models.deletion
from django.db import migrations, models

import commerce.ids
from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("billing", "0007_owners_by_buyer"), ("contracts", "0001_initial")]
    operations = [
        migrations.CreateModel(
            name="ServiceChange",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("line_id", models.UUIDField()),
                ("quantity", models.PositiveIntegerField(help_text="Units in service from then on.")),
                ("effective_at", models.DateTimeField(help_text="When it was so, as was reported.")),
                ("applied_at", models.DateTimeField(help_text="When OpenMeter took it over.")),
                (
                    "contract",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="service_changes",
                        to="contracts.contract",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("contract", "line_id", "effective_at", "quantity"), name="service_change_once"
                    )
                ]
            },
        ),
        guards.append_only("billing_servicechange"),
    ]

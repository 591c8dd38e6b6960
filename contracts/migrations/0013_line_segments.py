"""What each line earned when, as known when; no line twice at one instant of both clocks."""

import django.contrib.postgres.fields.ranges
import django.db.models.deletion
from django.db import migrations, models

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("contracts", "0012_bulk_guards")]

    operations = [
        migrations.CreateModel(
            name="LineSegment",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("line_id", models.UUIDField()),
                (
                    "valid",
                    django.contrib.postgres.fields.ranges.DateTimeRangeField(
                        help_text="Business time, half-open; without end while nothing ends it."
                    ),
                ),
                (
                    "known",
                    django.contrib.postgres.fields.ranges.DateTimeRangeField(
                        help_text="Database time, half-open; without end while nothing supersedes it."
                    ),
                ),
                ("product_code", models.CharField(max_length=60)),
                ("seller_id", models.UUIDField()),
                ("buyer_id", models.UUIDField()),
                ("quantity", models.PositiveIntegerField()),
                ("share", models.DecimalField(decimal_places=12, max_digits=14)),
                ("price", models.JSONField()),
                (
                    "contract",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="segments",
                        to="contracts.contract",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("known__upper_inf", True)),
                        fields=["contract"],
                        name="segment_current",
                    ),
                    models.Index(fields=["seller_id", "-id"], name="segment_of_seller"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("share__gt", 0), ("share__lte", 1), ("quantity__gt", 0)),
                        name="segment_earns",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("valid__isempty", False), ("known__isempty", False)),
                        name="segment_lasts",
                    ),
                ],
            },
        ),
        # A range of one id takes part in an exclusion constraint without an extension.
        migrations.RunSQL(
            "CREATE TYPE contracts_id_range AS RANGE (subtype = uuid)", "DROP TYPE contracts_id_range"
        ),
        migrations.RunSQL(
            """
            ALTER TABLE contracts_linesegment ADD CONSTRAINT segment_once EXCLUDE USING gist (
              contracts_id_range(contract_id, contract_id, '[]') WITH &&,
              contracts_id_range(line_id, line_id, '[]') WITH &&, valid WITH &&, known WITH &&)
            """,
            "ALTER TABLE contracts_linesegment DROP CONSTRAINT segment_once",
        ),
        guards.updatable_only("contracts_linesegment", ["known"]),
    ]

"""A contract's partner as a column, so that a partner finds the contracts it has a share in."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("contracts", "0003_products")]
    operations = [
        migrations.AddField("contract", "partner_id", models.UUIDField(blank=True, null=True)),
        migrations.AddIndex(
            "contract",
            models.Index(
                fields=["partner_id"],
                name="contract_of_partner",
                condition=models.Q(partner_id__isnull=False),
            ),
        ),
        migrations.RunSQL(
            """UPDATE contracts_contract
               SET partner_id = (state #>> '{terms,settlement,partner_id}')::uuid
               WHERE state #>> '{terms,settlement,partner_id}' IS NOT NULL""",
            migrations.RunSQL.noop,
        ),
    ]

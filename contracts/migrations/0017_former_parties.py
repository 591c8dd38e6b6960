"""Who had a place in a contract until another took it, so that it still finds what was its own."""

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("contracts", "0016_bulk_reopened")]
    operations = [
        migrations.AddField(
            "contract",
            "former_party_ids",
            django.contrib.postgres.fields.ArrayField(
                base_field=models.UUIDField(), blank=True, default=list, size=None
            ),
        ),
        migrations.AddIndex(
            "contract",
            django.contrib.postgres.indexes.GinIndex(
                fields=["former_party_ids"], name="contract_of_former_party"
            ),
        ),
        migrations.RunSQL(
            """UPDATE contracts_contract SET former_party_ids = (
                   SELECT array_agg(DISTINCT (transfer ->> 'old_id')::uuid)
                   FROM jsonb_array_elements(state -> 'transfers') AS transfer
               )
               WHERE jsonb_array_length(COALESCE(state -> 'transfers', '[]')) > 0""",
            migrations.RunSQL.noop,
        ),
    ]

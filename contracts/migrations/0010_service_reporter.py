"""Whose key reported a service event: one party does not correct what another has reported."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("contracts", "0009_schedule"), ("parties", "0002_guards")]
    operations = [
        migrations.AddField(
            "serviceevent",
            "reporter",
            models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="Whose key reported it; nobody's when we did.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="parties.organization",
            ),
        )
    ]

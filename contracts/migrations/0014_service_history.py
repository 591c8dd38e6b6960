"""The newest reports of a contract are found without looking at all of them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("contracts", "0013_line_segments")]
    operations = [
        migrations.AddIndex(
            "serviceevent", models.Index(fields=["contract", "-id"], name="service_event_of_contract")
        )
    ]

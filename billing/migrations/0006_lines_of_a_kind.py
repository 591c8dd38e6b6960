"""A line may come to several kinds of charge from one instant on: what was used, and what is missing to it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0005_request_sync")]
    operations = [
        migrations.RemoveConstraint("invoiceline", "invoice_line_once"),
        migrations.AddConstraint(
            "invoiceline",
            models.UniqueConstraint(fields=["invoice", "line_id", "kind", "start"], name="invoice_line_once"),
        ),
    ]

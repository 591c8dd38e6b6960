"""What several sellers share of one charge, such as what is missing to a minimum, is a line for each of them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_service_changes")]
    operations = [
        migrations.RemoveConstraint("invoiceline", "invoice_line_once"),
        migrations.AddConstraint(
            "invoiceline",
            models.UniqueConstraint(
                fields=["invoice", "line_id", "seller", "kind", "start"], name="invoice_line_once"
            ),
        ),
    ]

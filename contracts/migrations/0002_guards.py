"""The log is never changed or removed, statuses move along the declared transitions only, and
contract numbers come from a sequence."""

from django.db import migrations

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("contracts", "0001_initial"), ("commerce", "0002_guards")]
    operations = [
        guards.append_only("contracts_contractedit"),
        guards.state_guard(
            "contracts_contract",
            "status",
            initial=["draft"],
            pairs=[
                ("draft", "pending_signature"),
                ("pending_signature", "draft"),
                ("pending_signature", "pending_activation"),
                ("pending_activation", "active"),
                ("active", "suspended"),
                ("suspended", "active"),
                ("active", "expired"),
                ("suspended", "expired"),
                ("active", "terminated"),
                ("suspended", "terminated"),
                ("draft", "cancelled"),
                ("pending_signature", "cancelled"),
                ("pending_activation", "cancelled"),
            ],
        ),
        migrations.RunSQL("CREATE SEQUENCE contracts_number", "DROP SEQUENCE contracts_number"),
    ]

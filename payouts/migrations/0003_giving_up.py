"""Two people may give up a payout that the bank does not know."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("payouts", "0002_guards")]

    operations = [
        migrations.AlterModelOptions(
            name="payout",
            options={
                "permissions": (
                    ("request_payout", "Can request a payout"),
                    ("approve_payout", "Can approve and reject payouts"),
                    ("cancel_payout", "Can cancel payouts that have not been sent"),
                    ("poll_payout", "Can ask the bank about payouts now"),
                    ("request_giving_up", "Can ask that a payout without an order at the bank is given up"),
                    ("approve_giving_up", "Can agree that a payout is given up"),
                )
            },
        )
    ]

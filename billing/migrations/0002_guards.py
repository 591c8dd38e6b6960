"""Lines, usage and subscription changes are facts; statuses move only along their transitions."""

from django.db import migrations

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial"), ("commerce", "0002_guards")]
    operations = [
        guards.state_guard(
            "billing_billingaccount",
            "billing_status",
            initial=["not_billing"],
            pairs=[
                ("collections", "current"),
                ("collections", "delinquent"),
                ("collections", "in_grace"),
                ("collections", "invoiced"),
                ("collections", "past_due"),
                ("collections", "settled"),
                ("current", "invoiced"),
                ("current", "settled"),
                ("delinquent", "collections"),
                ("delinquent", "current"),
                ("delinquent", "in_grace"),
                ("delinquent", "invoiced"),
                ("delinquent", "past_due"),
                ("delinquent", "settled"),
                ("disputed", "current"),
                ("in_grace", "current"),
                ("in_grace", "invoiced"),
                ("in_grace", "past_due"),
                ("in_grace", "settled"),
                ("invoiced", "current"),
                ("invoiced", "in_grace"),
                ("invoiced", "settled"),
                ("not_billing", "current"),
                ("not_billing", "invoiced"),
                ("not_billing", "settled"),
                ("past_due", "current"),
                ("past_due", "delinquent"),
                ("past_due", "in_grace"),
                ("past_due", "invoiced"),
                ("past_due", "settled"),
                ("settled", "current"),
                ("settled", "invoiced"),
            ],
        ),
        guards.append_only("billing_subscriptionchange"),
        guards.append_only("billing_usageevent"),
        guards.state_guard(
            "billing_invoice",
            "status",
            initial=["draft"],
            pairs=[
                ("draft", "issued"),
                ("draft", "voided"),
                ("issued", "overdue"),
                ("issued", "paid"),
                ("issued", "voided"),
                ("overdue", "paid"),
                ("overdue", "voided"),
                ("partially_paid", "overdue"),
                ("partially_paid", "paid"),
                ("partially_paid", "voided"),
                ("uncollectible", "voided"),
            ],
        ),
        guards.append_only("billing_invoiceline"),
        guards.state_guard(
            "billing_payin",
            "status",
            initial=["pending"],
            pairs=[
                ("completed", "returned"),
                ("expected", "completed"),
                ("expected", "failed"),
                ("expected", "returned"),
                ("pending", "completed"),
                ("pending", "failed"),
                ("pending", "returned"),
            ],
        ),
    ]

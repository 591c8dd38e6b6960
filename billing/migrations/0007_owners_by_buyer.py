"""An account and a subscription are of a buyer's turn: a correction may give an owner's number to another.

What was drawn of a downpayment is kept. An account that was ending may come back before anything was invoiced.
"""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Q

from commerce import guards

TURN = models.PositiveSmallIntegerField(default=1, help_text="Which of this buyer's times.")
STATES = (
    ("collections", "current delinquent in_grace invoiced past_due settled"),
    ("current", "invoiced not_billing settled"),
    ("delinquent", "collections current in_grace invoiced past_due settled"),
    ("disputed", "current"),
    ("in_grace", "current invoiced past_due settled"),
    ("invoiced", "current in_grace settled"),
    ("not_billing", "current invoiced settled"),
    ("past_due", "current delinquent in_grace invoiced settled"),
    ("settled", "current invoiced not_billing"),
)
TURNS = """
UPDATE billing_billingaccount a SET turn = t.turn FROM (
  SELECT id, row_number() OVER (PARTITION BY contract_id, buyer_id ORDER BY owner_epoch) AS turn
  FROM billing_billingaccount) t
WHERE a.id = t.id AND t.turn > 1;
UPDATE billing_subscriptionsync s SET buyer_id = a.buyer_id, turn = a.turn FROM billing_billingaccount a
WHERE a.contract_id = s.contract_id AND a.owner_epoch = s.owner_epoch;
UPDATE billing_subscriptionsync s SET buyer_id = c.buyer_id FROM contracts_contract c
WHERE c.id = s.contract_id AND s.buyer_id IS NULL;
"""
DRAWN = """
UPDATE billing_billingaccount a SET downpayment_drawn_minor = d.drawn FROM (
  SELECT i.account_id, -sum(e.amount) AS drawn FROM billing_invoice i
  JOIN ledger_ledgertransaction t ON t.id = i.transaction_id
  JOIN ledger_ledgerentry e ON e.transaction_id = t.id
  JOIN ledger_ledgeraccount l ON l.id = e.account_id AND l.kind = 'COMMITTED_DOWNPAYMENT'
  GROUP BY 1) d
WHERE a.id = d.account_id AND d.drawn > 0;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_lines_of_a_kind"),
        ("contracts", "0001_initial"),
        ("ledger", "0001_initial"),
    ]
    operations = [
        migrations.AddField("billingaccount", "turn", TURN),
        migrations.AddField(
            "billingaccount",
            "downpayment_drawn_minor",
            models.BigIntegerField(default=0, help_text="Invoices have drawn so much of it."),
        ),
        migrations.AddField("subscriptionsync", "turn", TURN),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    f"""
                    ALTER TABLE billing_subscriptionsync ADD COLUMN buyer_id uuid;
                    {TURNS}
                    {DRAWN}
                    ALTER TABLE billing_subscriptionsync ALTER COLUMN buyer_id SET NOT NULL;
                    ALTER TABLE billing_subscriptionsync ADD CONSTRAINT billing_subscriptionsync_buyer
                      FOREIGN KEY (buyer_id) REFERENCES parties_organization DEFERRABLE INITIALLY DEFERRED;
                    CREATE INDEX billing_subscriptionsync_buyer_id ON billing_subscriptionsync (buyer_id);
                    """,
                    "ALTER TABLE billing_subscriptionsync DROP COLUMN buyer_id",
                )
            ],
            state_operations=[
                migrations.AddField(
                    "subscriptionsync",
                    "buyer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="parties.organization",
                    ),
                    preserve_default=False,
                )
            ],
        ),
        migrations.AddConstraint(
            "billingaccount",
            models.UniqueConstraint(
                fields=["contract", "buyer", "turn"], name="billing_account_of_turn_once"
            ),
        ),
        migrations.AddConstraint(
            "subscriptionsync",
            models.UniqueConstraint(fields=["contract", "buyer", "turn"], name="sync_of_turn_once"),
        ),
        migrations.RemoveConstraint("billingaccount", "set_aside_not_negative"),
        migrations.AddConstraint(
            "billingaccount",
            models.CheckConstraint(
                condition=Q(downpayment_wanted_minor__gte=0)
                & Q(downpayment_minor__gte=0)
                & Q(downpayment_drawn_minor__gte=0)
                & Q(committed_wanted_minor__gte=0)
                & Q(committed_minor__gte=0),
                name="set_aside_not_negative",
            ),
        ),
        guards.state_guard(
            "billing_billingaccount",
            "billing_status",
            initial=["not_billing"],
            pairs=[(state, after) for state, targets in STATES for after in targets.split()],
        ),
    ]

"""A contract that changes hands has an account and a subscription for each owner.

The rows there are belong to the first owner, and keep their ids; a subscription's key was its contract.
"""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import F

from commerce.ids import uuid7

EPOCH = models.PositiveSmallIntegerField(default=1, help_text="Which owner of the contract's.")


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_looks_at_pay_ins"), ("contracts", "0001_initial")]
    operations = [
        migrations.AddField("billingaccount", "owner_epoch", EPOCH),
        migrations.AlterField(
            "billingaccount",
            "contract",
            models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="billing_accounts",
                to="contracts.contract",
            ),
        ),
        migrations.AddConstraint(
            "billingaccount",
            models.UniqueConstraint(fields=["contract", "owner_epoch"], name="billing_account_of_owner_once"),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    """
                    ALTER TABLE billing_subscriptionsync DROP CONSTRAINT billing_subscriptionsync_pkey;
                    ALTER TABLE billing_subscriptionsync ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid();
                    ALTER TABLE billing_subscriptionsync ALTER COLUMN id DROP DEFAULT;
                    ALTER TABLE billing_subscriptionsync ADD PRIMARY KEY (id);
                    CREATE INDEX billing_subscriptionsync_contract_id ON billing_subscriptionsync (contract_id);
                    """,
                    """
                    DROP INDEX billing_subscriptionsync_contract_id;
                    ALTER TABLE billing_subscriptionsync DROP CONSTRAINT billing_subscriptionsync_pkey;
                    ALTER TABLE billing_subscriptionsync DROP COLUMN id;
                    ALTER TABLE billing_subscriptionsync ADD PRIMARY KEY (contract_id);
                    """,
                )
            ],
            state_operations=[
                migrations.AlterField(
                    "subscriptionsync",
                    "contract",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="subscription_syncs",
                        to="contracts.contract",
                    ),
                ),
                migrations.AddField(
                    "subscriptionsync",
                    "id",
                    models.UUIDField(default=uuid7, editable=False, primary_key=True, serialize=False),
                ),
            ],
        ),
        migrations.AddField("subscriptionsync", "owner_epoch", EPOCH),
        migrations.AddField(
            "subscriptionsync",
            "checked_at",
            models.DateTimeField(null=True, help_text="When what it bills was last compared."),
        ),
        migrations.AddField(
            "subscriptionsync",
            "drift",
            models.JSONField(blank=True, default=list, help_text="What differed then, and why."),
        ),
        migrations.AddConstraint(
            "subscriptionsync",
            models.UniqueConstraint(fields=["contract", "owner_epoch"], name="sync_of_owner_once"),
        ),
        migrations.AddIndex(
            "subscriptionsync", models.Index(F("checked_at").asc(nulls_first=True), name="sync_by_check")
        ),
        migrations.AlterModelOptions(
            "subscriptionsync",
            {
                "permissions": (
                    ("sync_subscription", "Can compare a subscription with its contract and sync it"),
                )
            },
        ),
    ]

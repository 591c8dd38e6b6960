"""The tables. Entries are one table that can become monthly partitions in a moment (docs/decisions/partitions.md)."""

import django.db.models.deletion
import django.db.models.expressions
import django_fsm
from django.contrib.postgres.indexes import BrinIndex
from django.db import migrations, models

import commerce.ids
import ledger.models

# The names are those that Django would give. The key ends with the instant, as a partitioned table's must,
# and so also serves "the last entry of a stripe recorded by then".
ENTRIES = """
CREATE TABLE ledger_ledgerentry (
  account_id bigint NOT NULL, stripe smallint NOT NULL, version bigint NOT NULL,
  transaction_id uuid NOT NULL, currency varchar(5) NOT NULL, amount bigint NOT NULL, balance_after bigint NOT NULL,
  effective_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL,
  PRIMARY KEY (account_id, stripe, recorded_at, version)
);
CREATE INDEX ledger_ledgerentry_transaction_id ON ledger_ledgerentry (transaction_id);
CREATE INDEX entry_by_effective_at ON ledger_ledgerentry (account_id, effective_at, recorded_at);
CREATE INDEX entry_by_recording ON ledger_ledgerentry USING brin (recorded_at);
"""


class Migration(migrations.Migration):
    initial = True
    dependencies = [("parties", "0002_guards")]
    operations = [
        migrations.CreateModel(
            name="LedgerSeal",
            fields=[
                ("number", models.BigIntegerField(primary_key=True, serialize=False)),
                (
                    "until",
                    models.DateTimeField(
                        help_text="Covers what was recorded up to this instant.", unique=True
                    ),
                ),
                ("transactions", models.IntegerField()),
                ("entries", models.IntegerField()),
                ("members", models.BinaryField()),
                ("previous", models.BinaryField()),
                ("hash", models.BinaryField()),
                ("sealed_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "seal",
                "verbose_name_plural": "seals",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="LedgerAccount",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("kind", models.CharField(choices=ledger.models.kinds, max_length=32)),
                ("currency", models.CharField(max_length=5)),
                (
                    "account_class",
                    models.CharField(
                        choices=[
                            ("asset", "Asset"),
                            ("liability", "Liability"),
                            ("revenue", "Revenue"),
                            ("expense", "Expense"),
                            ("memo", "Memo"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "normal",
                    models.CharField(choices=[("debit", "Debit"), ("credit", "Credit")], max_length=6),
                ),
                (
                    "stripes",
                    models.PositiveSmallIntegerField(
                        default=1,
                        help_text="Over how many rows the balance is spread, so that writers need not queue.",
                    ),
                ),
                ("opened_at", models.DateTimeField(auto_now_add=True)),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="parties.organization",
                    ),
                ),
            ],
            options={
                "verbose_name": "account",
                "verbose_name_plural": "accounts",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="LedgerBalance",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "account_id", "stripe", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("stripe", models.SmallIntegerField()),
                ("stripes", models.SmallIntegerField()),
                ("currency", models.CharField(max_length=5)),
                ("posted", models.BigIntegerField(default=0, help_text="Sum of all entries.")),
                (
                    "held_dr",
                    models.BigIntegerField(
                        default=0, help_text="Debits that pending transactions set aside."
                    ),
                ),
                (
                    "held_cr",
                    models.BigIntegerField(
                        default=0, help_text="Credits that pending transactions announce."
                    ),
                ),
                ("version", models.BigIntegerField(default=0, help_text="Number of entries.")),
                (
                    "floor",
                    models.BigIntegerField(
                        help_text="Posted less held debits never falls below it.", null=True
                    ),
                ),
                (
                    "recorded_at",
                    models.DateTimeField(help_text="Of the latest entry; the next is never earlier."),
                ),
                (
                    "account",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="balances",
                        to="ledger.ledgeraccount",
                    ),
                ),
            ],
            options={
                "verbose_name": "balance",
                "verbose_name_plural": "balances",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="LedgerDay",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "account_id",
                        "day",
                        "recorded_day",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("day", models.DateField(help_text="Of business time.")),
                ("recorded_day", models.DateField()),
                ("debit", models.BigIntegerField()),
                ("credit", models.BigIntegerField()),
                ("entries", models.BigIntegerField()),
                (
                    "account",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="days",
                        to="ledger.ledgeraccount",
                    ),
                ),
            ],
            options={"verbose_name": "day", "verbose_name_plural": "days", "default_permissions": ("view",)},
        ),
        migrations.CreateModel(
            name="LedgerPeriod",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("starts_on", models.DateField(unique=True)),
                ("ends_on", models.DateField(help_text="The first day after it.", unique=True)),
                (
                    "status",
                    django_fsm.FSMField(
                        choices=[("open", "Open"), ("closing", "Closing"), ("closed", "Closed")],
                        default="open",
                        max_length=50,
                    ),
                ),
            ],
            options={
                "verbose_name": "accounting period",
                "verbose_name_plural": "accounting periods",
                "permissions": (
                    ("close_ledgerperiod", "Can close accounting periods"),
                    ("request_reopening", "Can ask for a closed period to be opened again"),
                    ("reopen_ledgerperiod", "Can approve that a closed period is opened again"),
                ),
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("status", "open"), _negated=True),
                        fields=["-ends_on"],
                        name="period_not_open",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("ends_on__gt", models.F("starts_on"))), name="period_has_days"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="LedgerTransaction",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("key", models.CharField(help_text="provider:object:fact or source:step.", max_length=200)),
                (
                    "fingerprint",
                    models.BinaryField(
                        help_text="Hash of the content: the same key with another is refused."
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[("posted", "Posted"), ("pending", "Pending"), ("discarded", "Discarded")],
                        max_length=10,
                    ),
                ),
                ("source", models.CharField(help_text="What caused it, as type:id.", max_length=120)),
                ("recipe", models.CharField(max_length=60)),
                ("description", models.CharField(blank=True, max_length=300)),
                ("actor", models.CharField(max_length=120)),
                ("effective_at", models.DateTimeField(help_text="Business time.")),
                ("recorded_at", models.DateTimeField(help_text="System time.")),
                (
                    "meant_at",
                    models.DateTimeField(
                        help_text="Its business time, where a closed period moved `effective_at`.", null=True
                    ),
                ),
                (
                    "adjusts_period",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        help_text="The closed period that it belongs to by business time.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="adjustments",
                        to="ledger.ledgerperiod",
                    ),
                ),
                (
                    "resolves",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        help_text="The pending transaction that this one posts or discards.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="resolutions",
                        to="ledger.ledgertransaction",
                    ),
                ),
                (
                    "reverses",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        help_text="The posted transaction that this one takes back, whole or in part.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reversals",
                        to="ledger.ledgertransaction",
                    ),
                ),
            ],
            options={
                "verbose_name": "transaction",
                "verbose_name_plural": "transactions",
                "permissions": (
                    ("request_reversal", "Can ask for a posting to be reversed"),
                    ("approve_reversal", "Can approve that a posting is reversed"),
                ),
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="LedgerRelease",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("key", models.CharField(max_length=200, unique=True)),
                ("amount_minor", models.BigIntegerField()),
                ("currency", models.CharField(max_length=5)),
                ("source", models.CharField(db_index=True, max_length=120)),
                (
                    "due_at",
                    models.DateTimeField(help_text="Business time from which the money may be paid out."),
                ),
                (
                    "status",
                    django_fsm.FSMField(
                        choices=[
                            ("scheduled", "Scheduled"),
                            ("held", "Held"),
                            ("released", "Released"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="scheduled",
                        max_length=50,
                    ),
                ),
                ("scheduled_at", models.DateTimeField(help_text="Business time.")),
                ("recorded_at", models.DateTimeField(auto_now_add=True)),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="parties.organization",
                    ),
                ),
                (
                    "transaction",
                    models.OneToOneField(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="release",
                        to="ledger.ledgertransaction",
                    ),
                ),
            ],
            options={
                "verbose_name": "release",
                "verbose_name_plural": "releases",
                "permissions": (
                    ("hold_ledgerrelease", "Can hold and lift releases"),
                    ("cancel_ledgerrelease", "Can cancel releases"),
                ),
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="LedgerHold",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("stripe", models.SmallIntegerField()),
                ("currency", models.CharField(max_length=5)),
                ("amount", models.BigIntegerField(help_text="Minor units, credit positive, debit negative.")),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="holds",
                        to="ledger.ledgeraccount",
                    ),
                ),
                (
                    "transaction",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="holds",
                        to="ledger.ledgertransaction",
                    ),
                ),
            ],
            options={
                "verbose_name": "hold",
                "verbose_name_plural": "holds",
                "default_permissions": ("view",),
            },
        ),
        migrations.AddIndex(
            model_name="ledgeraccount",
            index=models.Index(fields=["kind", "currency"], name="account_by_kind"),
        ),
        migrations.AddConstraint(
            model_name="ledgeraccount",
            constraint=models.UniqueConstraint(fields=("owner", "kind", "currency"), name="account_once"),
        ),
        migrations.AddConstraint(
            model_name="ledgeraccount",
            constraint=models.CheckConstraint(
                condition=models.Q(("currency__regex", "^[A-Z]{3,5}$")), name="account_currency_code"
            ),
        ),
        migrations.AddConstraint(
            model_name="ledgeraccount",
            constraint=models.CheckConstraint(
                condition=models.Q(("stripes__gte", 1)), name="account_has_a_stripe"
            ),
        ),
        migrations.AddConstraint(
            model_name="ledgerbalance",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "posted__gte",
                        django.db.models.expressions.CombinedExpression(
                            models.F("floor"), "+", models.F("held_dr")
                        ),
                    )
                ),
                name="balance_not_below_floor",
            ),
        ),
        migrations.AddIndex(
            model_name="ledgerday", index=BrinIndex(fields=["day"], name="ledger_day_by_day")
        ),
        migrations.AddIndex(
            model_name="ledgertransaction",
            index=models.Index(fields=["source", "-id"], name="transaction_by_source"),
        ),
        migrations.AddIndex(
            model_name="ledgertransaction",
            index=models.Index(fields=["recorded_at"], name="transaction_by_recording"),
        ),
        migrations.AddIndex(
            model_name="ledgertransaction",
            index=models.Index(
                condition=models.Q(("reverses__isnull", False)),
                fields=["reverses"],
                name="transaction_reversals",
            ),
        ),
        migrations.AddIndex(
            model_name="ledgertransaction",
            index=models.Index(
                condition=models.Q(("adjusts_period__isnull", False)),
                fields=["adjusts_period"],
                name="transaction_adjustments",
            ),
        ),
        migrations.AddConstraint(
            model_name="ledgertransaction",
            constraint=models.UniqueConstraint(fields=("key",), name="transaction_key_once"),
        ),
        migrations.AddConstraint(
            model_name="ledgertransaction",
            constraint=models.UniqueConstraint(
                condition=models.Q(("resolves__isnull", False)),
                fields=("resolves",),
                name="pending_resolved_once",
            ),
        ),
        migrations.AddIndex(
            model_name="ledgerrelease",
            index=models.Index(
                condition=models.Q(("status", "scheduled")), fields=["due_at", "id"], name="release_due"
            ),
        ),
        migrations.AddConstraint(
            model_name="ledgerrelease",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount_minor__gt", 0)), name="release_amount_positive"
            ),
        ),
        migrations.AddConstraint(
            model_name="ledgerrelease",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("status", "released"), ("transaction__isnull", False)),
                    models.Q(models.Q(("status", "released"), _negated=True), ("transaction__isnull", True)),
                    _connector="OR",
                ),
                name="release_has_its_transaction",
            ),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(ENTRIES, "DROP TABLE ledger_ledgerentry")],
            state_operations=[
                migrations.CreateModel(
                    name="LedgerEntry",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "account_id",
                                "stripe",
                                "version",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("stripe", models.SmallIntegerField()),
                        ("version", models.BigIntegerField()),
                        ("currency", models.CharField(max_length=5)),
                        (
                            "amount",
                            models.BigIntegerField(help_text="Minor units, credit positive, debit negative."),
                        ),
                        (
                            "balance_after",
                            models.BigIntegerField(help_text="Of the stripe, credit positive."),
                        ),
                        ("effective_at", models.DateTimeField()),
                        ("recorded_at", models.DateTimeField()),
                        (
                            "account",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="entries",
                                to="ledger.ledgeraccount",
                            ),
                        ),
                        (
                            "transaction",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="entries",
                                to="ledger.ledgertransaction",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "entry",
                        "verbose_name_plural": "entries",
                        "default_permissions": ("view",),
                    },
                ),
                migrations.AddIndex(
                    model_name="ledgerentry",
                    index=models.Index(
                        fields=["account", "effective_at", "recorded_at"], name="entry_by_effective_at"
                    ),
                ),
                migrations.AddIndex(
                    model_name="ledgerentry",
                    index=BrinIndex(fields=["recorded_at"], name="entry_by_recording"),
                ),
            ],
        ),
    ]

"""Months of entries that have left the database: what left, where each stripe stood then, and where the rest begins.

`ledger_horizon` is the instant before which no entry counts as present, whether its partition is gone
already or not. Reads that would need an entry from before it raise LA001, whose detail is the month to
restore; the sums of days and months, which stay, answer all others.
"""

import django.db.models.deletion
from django.db import migrations, models

from commerce import guards

HORIZON = """
CREATE FUNCTION ledger_horizon() RETURNS timestamptz LANGUAGE sql STABLE
RETURN COALESCE((SELECT a.horizon FROM ledger_ledgerarchive a ORDER BY a.id DESC LIMIT 1), '-infinity')
"""

# From the newest day down: how many days there are before it does not matter.
BEGINS = """
CREATE FUNCTION ledger_begins(p_account bigint) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
-- From when on, in business time, all entries of the account are present; NULL when they all are.
DECLARE
  horizon constant timestamptz := ledger_horizon();
BEGIN
  IF horizon = '-infinity' THEN
    RETURN NULL;
  END IF;
  RETURN (SELECT (d.day + 1)::timestamptz FROM ledger_ledgerday d
           WHERE d.account_id = p_account AND d.recorded_day < horizon::date ORDER BY d.day DESC LIMIT 1);
END $$;
"""

REFUSE = """
CREATE FUNCTION ledger_refuse_archived(p_recorded timestamptz) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
BEGIN
  RAISE EXCEPTION 'entries that this needs are archived'
    USING ERRCODE = 'LA001', DETAIL = to_char(p_recorded, 'YYYY-MM');
END $$;
"""

SINCE = """
CREATE FUNCTION ledger_whole_since(p_account bigint, p_since timestamptz, p_until timestamptz, p_known timestamptz)
RETURNS timestamptz LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
-- p_since, or the later instant from which on a statement is whole; refused when nothing asked for is after it.
DECLARE
  begins constant timestamptz := ledger_begins(p_account);
BEGIN
  IF p_until <= begins OR (begins IS NOT NULL AND p_known < ledger_horizon()) THEN
    PERFORM ledger_refuse_archived(ledger_horizon() - interval '1 microsecond');
  END IF;
  RETURN greatest(p_since, begins);
END $$;
"""

REQUIRE = """
CREATE FUNCTION ledger_require_entries(p_account bigint, p_effective timestamptz, p_known timestamptz) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
-- Refuses a balance within a day that an archived entry moved; at the end of a day its sum is enough.
-- Without an account: of all accounts.
DECLARE
  horizon constant timestamptz := ledger_horizon();
  until constant timestamptz := p_effective + interval '1 microsecond';
  known_until constant timestamptz := p_known + interval '1 microsecond';
  needed date;
BEGIN
  IF horizon = '-infinity' THEN
    RETURN;
  END IF;
  IF until > date_trunc('day', until) THEN
    SELECT max(d.recorded_day) INTO needed FROM ledger_ledgerday d
     WHERE (p_account IS NULL OR d.account_id = p_account) AND d.day = until::date AND d.recorded_day < horizon::date
       AND (p_known IS NULL OR d.recorded_day <= p_known::date);
  END IF;
  IF needed IS NULL AND p_known < horizon AND known_until > date_trunc('day', known_until) THEN
    SELECT max(d.recorded_day) INTO needed FROM ledger_ledgerday d
     WHERE (p_account IS NULL OR d.account_id = p_account) AND d.recorded_day = p_known::date
       AND (p_effective IS NULL OR d.day < until::date);
  END IF;
  IF needed IS NOT NULL THEN
    PERFORM ledger_refuse_archived(needed);
  END IF;
END $$;
"""

UNDO = """
DROP FUNCTION ledger_require_entries, ledger_whole_since, ledger_refuse_archived, ledger_begins, ledger_horizon
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0007_partitions")]
    operations = [
        migrations.CreateModel(
            name="LedgerArchive",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("month", models.DateField(help_text="Of recording: its first day.")),
                (
                    "step",
                    models.CharField(
                        choices=[("removed", "Removed"), ("restored", "Restored")], max_length=10
                    ),
                ),
                (
                    "horizon",
                    models.DateTimeField(help_text="From here on, nothing recorded before it is present."),
                ),
                ("file", models.CharField(max_length=100)),
                ("sha256", models.CharField(help_text="Of the file's content, uncompressed.", max_length=64)),
                ("entries", models.BigIntegerField()),
                ("transactions", models.BigIntegerField()),
                ("first_recorded_at", models.DateTimeField(null=True)),
                ("last_recorded_at", models.DateTimeField(null=True)),
                (
                    "last_day",
                    models.DateField(
                        help_text="The latest day of business time that its entries moved.", null=True
                    ),
                ),
                ("noted_at", models.DateTimeField()),
                ("actor", models.CharField(max_length=120)),
            ],
            options={
                "verbose_name": "archived month",
                "verbose_name_plural": "archived months",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="LedgerCarriedBalance",
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
                ("stripe", models.PositiveSmallIntegerField()),
                ("version", models.BigIntegerField()),
                ("balance_after", models.BigIntegerField(help_text="Of the stripe, credit positive.")),
                ("recorded_at", models.DateTimeField()),
                (
                    "account",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="ledger.ledgeraccount",
                    ),
                ),
            ],
            options={
                "verbose_name": "carried balance",
                "verbose_name_plural": "carried balances",
                "default_permissions": ("view",),
            },
        ),
        guards.append_only("ledger_ledgerarchive"),
        guards.append_only("ledger_ledgercarriedbalance"),
        migrations.RunSQL([HORIZON, BEGINS, REFUSE, SINCE, REQUIRE], UNDO),
    ]

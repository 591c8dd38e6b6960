"""Closing the books of a period, and every balance at an instant by one statement.

`ledger_balances_at` is `ledger_balance` for all accounts: it starts from the latest closed period's
closings, so its cost is what moved since; with an instant of knowledge it sums months and days. `ledger_keep_period` and `ledger_forget_period` are the
only ways to write `LedgerPeriodBalance`, and each insists on the period's state.
"""

import django.db.models.deletion
from django.db import migrations, models

MOVED = """
CREATE FUNCTION ledger_moved(p_since timestamptz, p_until timestamptz)
RETURNS TABLE (account_id bigint, debit bigint, credit bigint) LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp AS $$
-- What entries effective in [p_since, p_until) moved, per account. p_since is a midnight (UTC) or -infinity.
#variable_conflict use_column
DECLARE
  sealed timestamptz := COALESCE((SELECT max(s.until) FROM ledger_ledgerseal s), '-infinity');
  last_day timestamptz := date_trunc('day', p_until, 'UTC');
BEGIN
  IF p_until > last_day THEN
    PERFORM ledger_require_entries(NULL, p_until - interval '1 microsecond', NULL);
  END IF;
  RETURN QUERY
    SELECT m.account_id, sum(m.debit)::bigint, sum(m.credit)::bigint
      FROM (
        SELECT d.account_id, sum(d.debit) AS debit, sum(d.credit) AS credit
          FROM ledger_ledgerday d
         WHERE d.day >= (p_since AT TIME ZONE 'UTC')::date AND d.day < (last_day AT TIME ZONE 'UTC')::date
         GROUP BY d.account_id
        UNION ALL  -- whole days that no seal covers yet
        SELECT b.account_id, greatest(-e.amount, 0), greatest(e.amount, 0)
          FROM ledger_ledgerbalance b
          JOIN ledger_ledgerentry e ON e.account_id = b.account_id AND e.stripe = b.stripe AND e.recorded_at > sealed
         WHERE b.recorded_at > sealed AND e.effective_at >= p_since AND e.effective_at < last_day
        UNION ALL  -- the part of the last day, of those accounts that can have moved in it
        SELECT a.account_id, greatest(-e.amount, 0), greatest(e.amount, 0)
          FROM (SELECT d.account_id FROM ledger_ledgerday d WHERE d.day = (last_day AT TIME ZONE 'UTC')::date
                 UNION SELECT b.account_id FROM ledger_ledgerbalance b WHERE b.recorded_at > sealed) a
          JOIN ledger_ledgerentry e ON e.account_id = a.account_id
                                   AND e.effective_at >= greatest(last_day, p_since) AND e.effective_at < p_until
         WHERE p_until > last_day
      ) m
     GROUP BY m.account_id;
END $$;
"""

KNOWN = """
CREATE FUNCTION ledger_balances_known(p_effective timestamptz, p_known timestamptz)
RETURNS TABLE (account_id bigint, balance bigint) LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp AS $$
-- The sums that `ledger_balance` adds up for one account, of all accounts at once. A kept balance is none of
-- them: it does not say when what it sums became known.
#variable_conflict use_column
DECLARE
  effective_until constant timestamptz := COALESCE(p_effective, 'infinity') + interval '1 microsecond';
  effective_midnight constant timestamptz := date_trunc('day', effective_until, 'UTC');
  effective_day constant date := effective_midnight AT TIME ZONE 'UTC';
  effective_month constant date := date_trunc('month', effective_day);
  known_until constant timestamptz := p_known + interval '1 microsecond';
  known_midnight constant timestamptz := date_trunc('day', known_until, 'UTC');
  known_day constant date := known_midnight AT TIME ZONE 'UTC';
  known_month constant date := date_trunc('month', known_day);
  sealed constant timestamptz := COALESCE((SELECT max(s.until) FROM ledger_ledgerseal s), '-infinity');
  folded_until constant timestamptz := least(sealed + interval '1 microsecond', known_midnight);
BEGIN
  PERFORM ledger_require_entries(NULL, p_effective, p_known);
  RETURN QUERY
    SELECT x.account_id, sum(x.amount)::bigint
      FROM (
        SELECT m.account_id, m.credit - m.debit AS amount FROM ledger_ledgermonth m
         WHERE m.month < effective_month AND m.recorded_month < known_month
        UNION ALL
        SELECT d.account_id, d.credit - d.debit FROM ledger_ledgerday d
         WHERE d.day < effective_month AND d.recorded_day >= known_month AND d.recorded_day < known_day
        UNION ALL
        SELECT d.account_id, d.credit - d.debit FROM ledger_ledgerday d
         WHERE d.day >= effective_month AND d.day < effective_day AND d.recorded_day < known_day
        UNION ALL  -- what no day that was over at the instant of knowledge contains
        SELECT b.account_id, e.amount
          FROM ledger_ledgerbalance b
          JOIN ledger_ledgerentry e ON e.account_id = b.account_id AND e.stripe = b.stripe
                                   AND e.recorded_at >= folded_until AND e.recorded_at < known_until
         WHERE b.recorded_at >= folded_until AND e.effective_at < effective_midnight
        UNION ALL  -- the part of the last day, of those accounts that can have moved in it
        SELECT a.account_id, e.amount
          FROM (SELECT d.account_id FROM ledger_ledgerday d WHERE d.day = effective_day
                 UNION SELECT b.account_id FROM ledger_ledgerbalance b WHERE b.recorded_at >= folded_until) a
          JOIN ledger_ledgerentry e ON e.account_id = a.account_id AND e.effective_at >= effective_midnight
                                   AND e.effective_at < effective_until AND e.recorded_at < known_until
         WHERE effective_until > effective_midnight
      ) x
     GROUP BY x.account_id;
END $$;
"""

BALANCES_AT = """
CREATE FUNCTION ledger_balances_at(p_effective timestamptz DEFAULT NULL, p_known timestamptz DEFAULT NULL)
RETURNS TABLE (account_id bigint, balance bigint) LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  base uuid;
  since timestamptz;
BEGIN
  IF p_known IS NOT NULL THEN
    RETURN QUERY SELECT k.account_id, k.balance FROM ledger_balances_known(p_effective, p_known) k;
    RETURN;
  END IF;
  IF p_effective IS NULL THEN
    RETURN QUERY SELECT b.account_id, sum(b.posted)::bigint FROM ledger_ledgerbalance b GROUP BY b.account_id;
    RETURN;
  END IF;
  SELECT p.id, p.ends_on::timestamp AT TIME ZONE 'UTC' INTO base, since FROM ledger_ledgerperiod p
   WHERE p.status = 'closed' AND p.ends_on <= (p_effective AT TIME ZONE 'UTC')::date
   ORDER BY p.ends_on DESC LIMIT 1;
  RETURN QUERY
    SELECT x.account_id, sum(x.amount)::bigint
      FROM (
        SELECT k.account_id, k.closing AS amount FROM ledger_ledgerperiodbalance k WHERE k.period_id = base
        UNION ALL
        SELECT m.account_id, m.credit - m.debit
          FROM ledger_moved(COALESCE(since, '-infinity'), p_effective + interval '1 microsecond') m
      ) x
     GROUP BY x.account_id;
END $$;
"""

KEEP = """
CREATE FUNCTION ledger_keep_period(p_period uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
-- Writes what each account opened, moved and closed the period with; how many accounts that are.
DECLARE
  period ledger_ledgerperiod;
  before uuid;
  kept bigint;
BEGIN
  SELECT * INTO STRICT period FROM ledger_ledgerperiod p WHERE p.id = p_period FOR NO KEY UPDATE;
  IF period.status <> 'closing' THEN
    RAISE EXCEPTION 'the period from % is %, not closing', period.starts_on, period.status USING ERRCODE = '55000';
  END IF;
  SELECT p.id INTO before FROM ledger_ledgerperiod p WHERE p.ends_on = period.starts_on AND p.status = 'closed';
  INSERT INTO ledger_ledgerperiodbalance (period_id, account_id, opening, debit, credit, closing)
    SELECT period.id, x.account_id, x.opening, x.debit, x.credit, x.opening + x.credit - x.debit
      FROM (
        SELECT COALESCE(o.account_id, m.account_id) AS account_id, COALESCE(o.closing, 0) AS opening,
               COALESCE(m.debit, 0) AS debit, COALESCE(m.credit, 0) AS credit
          FROM (SELECT k.account_id, k.closing FROM ledger_ledgerperiodbalance k
                 WHERE k.period_id = before AND k.closing <> 0) o
          FULL JOIN ledger_moved(period.starts_on::timestamp AT TIME ZONE 'UTC',
                                 period.ends_on::timestamp AT TIME ZONE 'UTC') m ON m.account_id = o.account_id
      ) x;
  GET DIAGNOSTICS kept = ROW_COUNT;
  RETURN kept;
END $$;
"""

FORGET = """
CREATE FUNCTION ledger_forget_period(p_period uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
-- Removes the kept balances of a period that was opened again; no closed period may follow it.
DECLARE
  period ledger_ledgerperiod;
  removed bigint;
BEGIN
  SELECT * INTO STRICT period FROM ledger_ledgerperiod p WHERE p.id = p_period FOR NO KEY UPDATE;
  IF period.status <> 'open'
     OR EXISTS (SELECT 1 FROM ledger_ledgerperiod p WHERE p.starts_on > period.starts_on AND p.status <> 'open') THEN
    RAISE EXCEPTION 'the balances of the period from % stay', period.starts_on USING ERRCODE = '55000';
  END IF;
  DELETE FROM ledger_ledgerperiodbalance k WHERE k.period_id = period.id;
  GET DIAGNOSTICS removed = ROW_COUNT;
  RETURN removed;
END $$;
"""

UNDO = """DROP FUNCTION ledger_forget_period, ledger_keep_period, ledger_balances_at, ledger_balances_known,
                 ledger_moved"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0005_keeping")]
    operations = [
        migrations.CreateModel(
            name="LedgerPeriodBalance",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "period_id",
                        "account_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("opening", models.BigIntegerField(help_text="Credit positive.")),
                ("debit", models.BigIntegerField()),
                ("credit", models.BigIntegerField()),
                ("closing", models.BigIntegerField(help_text="Credit positive.")),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="ledger.ledgeraccount",
                    ),
                ),
                (
                    "period",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="balances",
                        to="ledger.ledgerperiod",
                    ),
                ),
            ],
            options={
                "verbose_name": "period balance",
                "verbose_name_plural": "period balances",
                "default_permissions": ("view",),
            },
        ),
        migrations.AddConstraint(
            model_name="ledgerperiodbalance",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "closing",
                        django.db.models.expressions.CombinedExpression(
                            django.db.models.expressions.CombinedExpression(
                                models.F("opening"), "+", models.F("credit")
                            ),
                            "-",
                            models.F("debit"),
                        ),
                    )
                ),
                name="period_balance_adds_up",
            ),
        ),
        migrations.RunSQL([MOVED, KNOWN, BALANCES_AT, KEEP, FORGET], UNDO),
    ]

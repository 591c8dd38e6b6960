"""What an account held, by business time and by what was known; the cost does not grow with its history.

`ledger_balance(account, effective, known)` answers credit-positive minor units. Either instant may
be NULL: what is effective at any time, all that is known. Whole months and days come from
`LedgerMonth` and `LedgerDay`; parts of days, and what was recorded after the latest seal, from the entries.
"""

from django.db import migrations

BALANCE = """
CREATE FUNCTION ledger_balance(
  p_account bigint, p_effective timestamptz DEFAULT NULL, p_known timestamptz DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
  effective_day timestamptz := date_trunc('day', p_effective, 'UTC');
  effective_month date := date_trunc('month', p_effective AT TIME ZONE 'UTC')::date;
  known_day timestamptz := date_trunc('day', p_known, 'UTC');
  sealed timestamptz;
  months bigint;
  days bigint;
  today bigint;
  tail bigint;
  late bigint := 0;
BEGIN
  IF p_effective IS NULL AND p_known IS NULL THEN
    RETURN (SELECT sum(b.posted) FROM ledger_ledgerbalance b WHERE b.account_id = p_account);
  END IF;
  IF p_effective IS NULL THEN
    RETURN (
      SELECT COALESCE(sum(last.balance_after), 0)
        FROM ledger_ledgerbalance b
       CROSS JOIN LATERAL (
         SELECT e.balance_after FROM ledger_ledgerentry e
          WHERE e.account_id = b.account_id AND e.stripe = b.stripe AND e.recorded_at <= p_known
          ORDER BY e.recorded_at DESC, e.version DESC LIMIT 1) last
       WHERE b.account_id = p_account);
  END IF;
  SELECT s.until INTO sealed FROM ledger_ledgerseal s ORDER BY s.number DESC LIMIT 1;
  sealed := COALESCE(sealed, '-infinity');
  SELECT COALESCE(sum(e.amount), 0) INTO today FROM ledger_ledgerentry e
   WHERE e.account_id = p_account AND e.effective_at >= effective_day AND e.effective_at <= p_effective
     AND (p_known IS NULL OR e.recorded_at <= p_known);
  IF p_known IS NULL THEN
    SELECT COALESCE(sum(m.credit - m.debit), 0) INTO months FROM ledger_ledgermonth m
     WHERE m.account_id = p_account AND m.month < effective_month;
    SELECT COALESCE(sum(d.credit - d.debit), 0) INTO days FROM ledger_ledgerday d
     WHERE d.account_id = p_account AND d.day >= effective_month AND d.day < (effective_day AT TIME ZONE 'UTC')::date;
    SELECT COALESCE(sum(e.amount), 0) INTO tail
      FROM ledger_ledgerbalance b
      JOIN ledger_ledgerentry e ON e.account_id = b.account_id AND e.stripe = b.stripe AND e.recorded_at > sealed
     WHERE b.account_id = p_account AND b.recorded_at > sealed AND e.effective_at < effective_day;
    RETURN months + days + today + tail;
  END IF;
  -- What was sealed on whole days before the day of knowledge, that day itself, and what no seal covers yet.
  SELECT COALESCE(sum(d.credit - d.debit), 0) INTO days FROM ledger_ledgerday d
   WHERE d.account_id = p_account AND d.day < (effective_day AT TIME ZONE 'UTC')::date
     AND d.recorded_day < (known_day AT TIME ZONE 'UTC')::date;
  SELECT COALESCE(sum(e.amount), 0) INTO late
    FROM ledger_ledgerbalance b
    JOIN ledger_ledgerentry e ON e.account_id = b.account_id AND e.stripe = b.stripe
                             AND e.recorded_at >= known_day AND e.recorded_at <= p_known
   WHERE b.account_id = p_account AND b.recorded_at >= known_day AND e.effective_at < effective_day;
  SELECT COALESCE(sum(e.amount), 0) INTO tail
    FROM ledger_ledgerbalance b
    JOIN ledger_ledgerentry e ON e.account_id = b.account_id AND e.stripe = b.stripe
                             AND e.recorded_at > sealed AND e.recorded_at < known_day
   WHERE b.account_id = p_account AND b.recorded_at > sealed AND e.effective_at < effective_day;
  RETURN days + today + late + tail;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0003_posting")]
    operations = [migrations.RunSQL(BALANCE, "DROP FUNCTION ledger_balance")]

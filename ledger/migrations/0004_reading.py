"""What an account held, by business time and by what was known, and its statement; the cost of neither grows with history.

`ledger_balance(account, effective, known)` answers credit-positive minor units. Either instant may
be NULL: what is effective at any time, all that is known. Whole months and days come from
`LedgerMonth` and `LedgerDay`; parts of days, and what was recorded after the latest seal, from the entries.
Where those are archived, a part of a day that needs them is refused (0008).
`ledger_statement` is a page of entries with the balance after each, newest first, in one question.
"""

from django.db import migrations

# Up to an instant is before the next microsecond, so that the end of a day needs no entry of that day. Without an
# instant of knowledge all is known before `infinity`, and the same sum is right. Whole days end at the midnights
# next to the instants, and the entries between are added or taken away: never those of more than half a day. What
# narrows those no further is a FILTER, lest a plan takes the index of the other instant.
BALANCE = """
CREATE FUNCTION ledger_balance(
  p_account bigint, p_effective timestamptz DEFAULT NULL, p_known timestamptz DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  effective_until constant timestamptz := p_effective + interval '1 microsecond';
  effective_midnight constant timestamptz := date_trunc('day', effective_until + interval '12 hours', 'UTC');
  effective_day constant date := effective_midnight AT TIME ZONE 'UTC';
  effective_month constant date := date_trunc('month', effective_day);
  known_until constant timestamptz := COALESCE(p_known + interval '1 microsecond', 'infinity');
  known_midnight constant timestamptz := date_trunc('day', known_until + interval '12 hours', 'UTC');
  known_day constant date := known_midnight AT TIME ZONE 'UTC';
  known_month constant date := date_trunc('month', known_day);
  folded_until timestamptz;
BEGIN
  IF p_effective IS NULL AND p_known IS NULL THEN
    RETURN (SELECT sum(b.posted) FROM ledger_ledgerbalance b WHERE b.account_id = p_account);
  END IF;
  PERFORM ledger_require_entries(p_account, p_effective, p_known);
  IF p_effective IS NULL AND p_known < ledger_horizon() THEN
    RETURN (
      SELECT COALESCE(sum(m.credit - m.debit), 0) FROM ledger_ledgermonth m
       WHERE m.account_id = p_account AND m.recorded_month < known_month
    ) + (
      SELECT COALESCE(sum(d.credit - d.debit), 0) FROM ledger_ledgerday d
       WHERE d.account_id = p_account AND d.recorded_day >= known_month AND d.recorded_day < known_day);
  END IF;
  IF p_effective IS NULL THEN
    RETURN (
      SELECT COALESCE(sum(COALESCE(
               (SELECT e.balance_after FROM ledger_ledgerentry e
                 WHERE e.account_id = b.account_id AND e.stripe = b.stripe AND e.recorded_at <= p_known
                 ORDER BY e.recorded_at DESC, e.version DESC LIMIT 1),
               (SELECT c.balance_after FROM ledger_ledgercarriedbalance c
                 WHERE c.account_id = b.account_id AND c.stripe = b.stripe AND c.recorded_at <= p_known
                 ORDER BY c.version DESC LIMIT 1))), 0)
        FROM ledger_ledgerbalance b WHERE b.account_id = p_account);
  END IF;
  SELECT s.until + interval '1 microsecond' INTO folded_until FROM ledger_ledgerseal s ORDER BY s.number DESC LIMIT 1;
  folded_until := least(COALESCE(folded_until, '-infinity'), known_midnight);
  RETURN (
    SELECT COALESCE(sum(m.credit - m.debit), 0) FROM ledger_ledgermonth m
     WHERE m.account_id = p_account AND m.month < effective_month AND m.recorded_month < known_month
  ) + (
    SELECT COALESCE(sum(d.credit - d.debit), 0) FROM ledger_ledgerday d
     WHERE d.account_id = p_account AND d.day < effective_month
       AND d.recorded_day >= known_month AND d.recorded_day < known_day
  ) + (
    SELECT COALESCE(sum(d.credit - d.debit), 0) FROM ledger_ledgerday d
     WHERE d.account_id = p_account AND d.day >= effective_month AND d.day < effective_day
       AND d.recorded_day < known_day
  ) + CASE WHEN folded_until <= known_until THEN 1 ELSE -1 END * (
    SELECT COALESCE(sum(e.amount) FILTER (WHERE e.effective_at < effective_midnight), 0)
      FROM ledger_ledgerbalance b
      JOIN ledger_ledgerentry e ON e.account_id = b.account_id AND e.stripe = b.stripe
                               AND e.recorded_at >= least(folded_until, known_until)
                               AND e.recorded_at < greatest(folded_until, known_until)
     WHERE b.account_id = p_account AND b.recorded_at >= least(folded_until, known_until)
  ) + CASE WHEN effective_midnight <= effective_until THEN 1 ELSE -1 END * (
    SELECT COALESCE(sum(e.amount) FILTER (WHERE e.recorded_at < known_until), 0) FROM ledger_ledgerentry e
     WHERE e.account_id = p_account AND e.effective_at >= least(effective_midnight, effective_until)
       AND e.effective_at < greatest(effective_midnight, effective_until)
  );
END $$;
"""

# A place in a statement is where an entry stands: by business time, then as recorded.
BELOW = """
CREATE FUNCTION ledger_balance_below(
  p_account bigint, p_effective timestamptz, p_recorded timestamptz, p_stripe int, p_version bigint,
  p_known timestamptz DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
  RETURN ledger_balance(p_account, p_effective, p_known) - (
    SELECT COALESCE(sum(e.amount), 0) FROM ledger_ledgerentry e
     WHERE e.account_id = p_account AND e.effective_at = p_effective
       AND (e.recorded_at, e.stripe, e.version) >= (p_recorded, p_stripe, p_version)
       AND e.recorded_at <= COALESCE(p_known, 'infinity'));
END $$;
"""

STATEMENT = """
CREATE FUNCTION ledger_statement(
  p_account bigint, p_limit int DEFAULT 50, p_since timestamptz DEFAULT NULL, p_until timestamptz DEFAULT NULL,
  p_known timestamptz DEFAULT NULL, p_effective timestamptz DEFAULT NULL, p_recorded timestamptz DEFAULT NULL,
  p_stripe int DEFAULT NULL, p_version bigint DEFAULT NULL
) RETURNS TABLE (
  opening bigint, closing bigint, begins timestamptz, balance bigint, account_id bigint, stripe smallint,
  version bigint, transaction_id uuid, currency varchar, amount bigint, balance_after bigint, effective_at timestamptz,
  recorded_at timestamptz, key varchar, source varchar, recipe varchar, description varchar
) LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
-- Entries effective in [p_since, p_until) that were recorded by p_known, below a place; one row without an
-- entry when there is none. Where older ones are archived it begins, and is opened, at `begins`. The order
-- of entries is the index's, and never sorted but within an instant.
#variable_conflict use_column
DECLARE
  continues constant boolean := COALESCE(p_effective < COALESCE(p_until, 'infinity'), false);
  top_effective constant timestamptz := CASE WHEN continues THEN p_effective ELSE COALESCE(p_until, 'infinity') END;
  top_recorded constant timestamptz := CASE WHEN continues THEN p_recorded ELSE '-infinity' END;
  since constant timestamptz := ledger_whole_since(p_account, p_since, p_until, p_known);
  running bigint;
BEGIN
  begins := CASE WHEN since IS DISTINCT FROM p_since THEN since END;
  opening := CASE WHEN since IS NULL THEN 0
                  ELSE ledger_balance(p_account, since - interval '1 microsecond', p_known) END;
  closing := ledger_balance(p_account, p_until - interval '1 microsecond', p_known);
  running := closing;
  IF continues THEN
    running := ledger_balance_below(p_account, p_effective, p_recorded, p_stripe, p_version, p_known);
  END IF;
  RETURN QUERY
    SELECT opening, closing, begins, (running - x.above)::bigint, x.account_id, x.stripe, x.version, x.transaction_id,
           x.currency, x.amount::bigint, x.balance_after::bigint, x.effective_at, x.recorded_at, t.key, t.source, t.recipe,
           t.description
      FROM (
        SELECT e.*, sum(e.amount) OVER (
                 ORDER BY e.effective_at DESC, e.recorded_at DESC, e.stripe DESC, e.version DESC
                 ROWS UNBOUNDED PRECEDING) - e.amount AS above
          FROM (
            SELECT * FROM ledger_ledgerentry n
             WHERE n.account_id = p_account
               AND (n.effective_at, n.recorded_at, n.stripe, n.version)
                 < (top_effective, top_recorded, p_stripe, p_version)
               AND n.effective_at >= COALESCE(since, '-infinity')
               AND n.recorded_at <= COALESCE(p_known, 'infinity')
             ORDER BY n.effective_at DESC, n.recorded_at DESC, n.stripe DESC, n.version DESC LIMIT p_limit) e) x
      JOIN ledger_ledgertransaction t ON t.id = x.transaction_id
     ORDER BY x.effective_at DESC, x.recorded_at DESC, x.stripe DESC, x.version DESC;
  IF NOT FOUND THEN
    RETURN NEXT;
  END IF;
END $$;
"""

UNDO = "DROP FUNCTION ledger_statement, ledger_balance_below, ledger_balance"


class Migration(migrations.Migration):
    dependencies = [("ledger", "0003_posting")]
    operations = [migrations.RunSQL([BALANCE, BELOW, STATEMENT], UNDO)]

"""What is written behind the postings: sums of days, and the chain of seals that shows tampering.

`ledger_keep` takes the transactions recorded since the last seal, folds their entries into
`LedgerDay` and `LedgerMonth` and writes the next `LedgerSeal`. It locks nothing that a posting waits for; instead it
waits, in `ledger_await_writers`, for those that began before its horizon. `ledger_digests` is what
sealing and verifying both compute.
"""

import django.db.models.deletion
from django.db import migrations, models

# Whoever may still write what was recorded before the horizon has locked the balances in one of two
# modes before it read its clock, and keeps that lock until its rows are visible or gone.
AWAIT = """
CREATE FUNCTION ledger_await_writers(p_patience interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
-- Waits until every other transaction that is posting now has ended; false when one lasts longer than that.
DECLARE
  give_up constant timestamptz := clock_timestamp() + p_patience;
  writers text[] := ARRAY(
    SELECT l.virtualtransaction FROM pg_locks l
     WHERE l.locktype = 'relation' AND l.relation = 'ledger_ledgerbalance'::regclass AND l.granted
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
       AND l.mode IN ('RowShareLock', 'RowExclusiveLock') AND l.pid IS DISTINCT FROM pg_backend_pid());
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'who waits for writers must see what they wrote' USING ERRCODE = '25001';
  END IF;
  WHILE EXISTS (
    SELECT FROM pg_locks l
     WHERE l.virtualtransaction = ANY (writers) AND l.locktype = 'relation'
       AND l.relation = 'ledger_ledgerbalance'::regclass
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
  LOOP
    IF clock_timestamp() >= give_up THEN
      RETURN false;
    END IF;
    PERFORM pg_sleep(0.005);
  END LOOP;
  RETURN true;
END $$;
"""

# Instants as the eight bytes of their microseconds, columns by name: neither a setting of the session
# nor a column that is added later changes a digest. The body is a text, so that it reads the entries by
# their table's name also when that has become another table (0007).
DIGESTS = """
CREATE FUNCTION ledger_digests(p_after timestamptz, p_until timestamptz)
RETURNS TABLE (id uuid, recorded_at timestamptz, entries bigint, digest bytea) LANGUAGE sql STABLE AS $$
  SELECT t.id, t.recorded_at, e.entries,
         sha256(convert_to(concat(
           ROW(t.id, t.key, encode(t.fingerprint, 'hex'), t.status, t.source, t.recipe, t.description, t.actor,
               encode(timestamptz_send(t.effective_at), 'hex'), encode(timestamptz_send(t.recorded_at), 'hex'),
               t.reverses_id, t.resolves_id, t.adjusts_period_id, encode(timestamptz_send(t.meant_at), 'hex'))::text,
           e.rows, h.rows), 'UTF8'))
    FROM ledger_ledgertransaction t
   CROSS JOIN LATERAL (
     SELECT count(*) AS entries,
            string_agg(ROW(e.account_id, e.stripe, e.version, e.currency, e.amount, e.balance_after,
                           encode(timestamptz_send(e.effective_at), 'hex'))::text, ''
                       ORDER BY e.account_id, e.stripe, e.version) AS rows
       FROM ledger_ledgerentry e WHERE e.transaction_id = t.id AND e.recorded_at = t.recorded_at) e
   CROSS JOIN LATERAL (
     SELECT string_agg(ROW('hold', h.id, h.account_id, h.stripe, h.currency, h.amount)::text, '' ORDER BY h.id) AS rows
       FROM ledger_ledgerhold h WHERE h.transaction_id = t.id AND t.status = 'pending') h
   WHERE t.recorded_at > p_after AND t.recorded_at <= p_until
$$;
"""

# An account as it was opened, in the place that a transaction has in a seal: its id behind eight empty bytes.
OPENINGS = """
CREATE FUNCTION ledger_openings(p_after timestamptz, p_until timestamptz)
RETURNS TABLE (id uuid, account bigint, opened_at timestamptz, digest bytea) LANGUAGE sql STABLE AS $$
  SELECT encode(int8send(0) || int8send(a.id), 'hex')::uuid, a.id, a.opened_at,
         sha256(convert_to(ROW('account', a.id, a.owner_id, a.kind, a.currency, a.account_class, a.normal, a.stripes,
                               encode(timestamptz_send(a.opened_at), 'hex'))::text, 'UTF8'))
    FROM ledger_ledgeraccount a WHERE a.opened_at > p_after AND a.opened_at <= p_until
$$;
"""

BLOCK = """
CREATE FUNCTION ledger_block(p_after timestamptz, p_until timestamptz, p_archived timestamptz DEFAULT '-infinity')
RETURNS TABLE (members bytea, transactions bigint, entries bigint) LANGUAGE sql STABLE AS $$
-- What a seal has: the transactions whose entries are present, in the order of recording, then the accounts.
  SELECT COALESCE(string_agg(uuid_send(x.id) || x.digest, '' ORDER BY x.recorded_at, x.id), '')
         || COALESCE((SELECT string_agg(uuid_send(o.id) || o.digest, '' ORDER BY o.id)
                        FROM ledger_openings(p_after, p_until) o), ''),
         count(*), COALESCE(sum(x.entries), 0)::bigint
    FROM ledger_digests(greatest(p_after, p_archived), p_until) x
$$;
"""

SEAL_HASH = """
CREATE FUNCTION ledger_seal_hash(
  p_previous bytea, p_number bigint, p_until timestamptz, p_transactions int, p_entries int, p_members bytea
) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sha256(p_previous || int8send(p_number) || timestamptz_send(p_until) || int4send(p_transactions)
              || int4send(p_entries) || p_members)
"""

KEEP = """
CREATE FUNCTION ledger_keep(p_limit int, p_margin interval, p_patience interval) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' SET enable_seqscan = off
SET plan_cache_mode = force_custom_plan AS $$
-- Seals about p_limit transactions; how many, or NULL when an older posting has not ended yet.
DECLARE
  last ledger_ledgerseal;
  horizon timestamptz;
  block record;
  chained bytea := '';
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('ledger_keep')) THEN
    RETURN 0;
  END IF;
  horizon := clock_timestamp() - p_margin;
  IF NOT ledger_await_writers(p_patience) THEN
    RETURN NULL;
  END IF;

  SELECT * INTO last FROM ledger_ledgerseal s ORDER BY s.number DESC LIMIT 1;
  IF FOUND THEN
    chained := last.hash;
  ELSE
    last.number := 0;
    last.until := '-infinity';
  END IF;
  -- All that was recorded in one instant goes into one block.
  SELECT max(x.recorded_at) AS until INTO block
    FROM (SELECT t.recorded_at FROM ledger_ledgertransaction t
           WHERE t.recorded_at > last.until AND t.recorded_at < horizon ORDER BY t.recorded_at LIMIT p_limit) x;
  IF block.until IS NULL THEN
    RETURN 0;
  END IF;

  WITH moved AS MATERIALIZED (
    SELECT e.account_id, e.effective_at::date AS day, e.recorded_at::date AS recorded_day,
           sum(greatest(-e.amount, 0)) AS debit, sum(greatest(e.amount, 0)) AS credit, count(*) AS entries
      FROM ledger_ledgertransaction t
      JOIN ledger_ledgerentry e ON e.transaction_id = t.id AND e.recorded_at = t.recorded_at
     WHERE t.recorded_at > last.until AND t.recorded_at <= block.until
     GROUP BY 1, 2, 3
  ), days AS (
    INSERT INTO ledger_ledgerday AS d (account_id, day, recorded_day, debit, credit, entries)
      SELECT account_id, day, recorded_day, debit, credit, entries FROM moved
      ON CONFLICT (account_id, day, recorded_day) DO UPDATE
         SET debit = d.debit + excluded.debit, credit = d.credit + excluded.credit,
             entries = d.entries + excluded.entries
  )
  INSERT INTO ledger_ledgermonth AS m (account_id, month, recorded_month, debit, credit)
    SELECT account_id, date_trunc('month', day)::date, date_trunc('month', recorded_day)::date, sum(debit), sum(credit)
      FROM moved GROUP BY 1, 2, 3
    ON CONFLICT (account_id, month, recorded_month) DO UPDATE
       SET debit = m.debit + excluded.debit, credit = m.credit + excluded.credit;

  SELECT block.until, x.transactions::int, x.entries::int, x.members INTO block FROM ledger_block(last.until, block.until) x;
  INSERT INTO ledger_ledgerseal (number, until, transactions, entries, members, previous, hash, sealed_at)
    VALUES (last.number + 1, block.until, block.transactions, block.entries, block.members, chained,
            ledger_seal_hash(chained, last.number + 1, block.until, block.transactions, block.entries, block.members),
            clock_timestamp());
  RETURN block.transactions;
END $$;
ALTER TABLE ledger_ledgerseal ALTER COLUMN members SET STORAGE EXTERNAL;
"""

UNDO = """
DROP FUNCTION ledger_keep, ledger_seal_hash, ledger_block, ledger_openings, ledger_digests, ledger_await_writers
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0004_reading")]
    operations = [
        migrations.CreateModel(
            name="LedgerMonth",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "account_id",
                        "month",
                        "recorded_month",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("month", models.DateField(help_text="Of business time: its first day.")),
                ("recorded_month", models.DateField()),
                ("debit", models.BigIntegerField()),
                ("credit", models.BigIntegerField()),
                (
                    "account",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="months",
                        to="ledger.ledgeraccount",
                    ),
                ),
            ],
            options={
                "verbose_name": "month",
                "verbose_name_plural": "months",
                "default_permissions": ("view",),
            },
        ),
        migrations.AddIndex(
            model_name="ledgeraccount", index=models.Index(fields=["opened_at"], name="account_by_opening")
        ),
        migrations.AddIndex(
            model_name="ledgerday",
            index=models.Index(fields=["account", "recorded_day", "day"], name="ledger_day_by_recording"),
        ),
        migrations.RunSQL([AWAIT, DIGESTS, OPENINGS, BLOCK, SEAL_HASH, KEEP], UNDO),
    ]

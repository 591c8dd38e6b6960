"""The posting function: every row of the ledger is written by it.

`ledger_post` takes N transactions (p_ arrays) with M entries (e_ arrays, `e_posting` is the 1-based
position of the entry's transaction; amounts are credit positive) and writes all or nothing. It
answers one row per transaction, in order: its id, when it was recorded, and whether it was there before. What it refuses
it answers as one row with `refusal`, writes nothing and leaves the caller's transaction usable.

Locks are taken in one order, balance rows by account id and then keys, so that concurrent calls
wait for each other and never deadlock. Balance conditions are judged by where the call ends.
"""

from django.db import migrations

POST = """
CREATE FUNCTION ledger_post(
  p_id uuid[], p_key text[], p_fingerprint bytea[], p_status text[], p_source text[], p_recipe text[],
  p_description text[], p_actor text, p_effective_at timestamptz[], p_reverses uuid[], p_resolves uuid[],
  e_posting int[], e_owner uuid[], e_kind text[], e_currency text[], e_amount bigint[]
) RETURNS TABLE (id uuid, recorded_at timestamptz, replayed boolean, refusal jsonb)
LANGUAGE plpgsql
-- Array parameters would be planned anew by every call, and a plan made on empty tables would scan them later.
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
  recorded timestamptz;
  accounts bigint[];
  existing uuid[];
  d_account bigint[];
  d_posted bigint[];
  d_held_dr bigint[];
  d_held_cr bigint[];
  d_entries bigint[];
  refused jsonb;
BEGIN
  SELECT array_agg(a.id ORDER BY u.o) INTO accounts
    FROM unnest(e_owner, e_kind, e_currency) WITH ORDINALITY u(owner, kind, currency, o)
    LEFT JOIN ledger_ledgeraccount a
      ON a.owner_id = u.owner AND a.kind = u.kind AND a.currency = u.currency;
  IF array_position(accounts, NULL) IS NOT NULL THEN
    RETURN QUERY SELECT NULL::uuid, NULL::timestamptz, false, '{"code": "unknown_account"}'::jsonb;
    RETURN;
  END IF;

  SELECT jsonb_build_object('code', 'unbalanced', 'key', p_key[u.x], 'currency', u.c, 'off', sum(u.m))
    INTO refused
    FROM unnest(e_posting, e_currency, e_amount) u(x, c, m) GROUP BY u.x, u.c HAVING sum(u.m) <> 0 LIMIT 1;
  IF refused IS NOT NULL THEN
    RETURN QUERY SELECT NULL::uuid, NULL::timestamptz, false, refused;
    RETURN;
  END IF;

  PERFORM 1 FROM ledger_ledgerbalance b
    WHERE b.account_id = ANY (accounts || ARRAY(
      SELECT h.account_id FROM ledger_ledgerhold h WHERE h.transaction_id = ANY (p_resolves)))
    ORDER BY b.account_id FOR NO KEY UPDATE;

  -- Read after the locks: an equal posting that came first holds the same accounts, so it is seen here.
  SELECT array_agg(t.id ORDER BY u.o),
         jsonb_agg(jsonb_build_object('code', 'key_conflict', 'key', t.key, 'transaction', t.id))
           FILTER (WHERE t.fingerprint <> u.f) -> 0
    INTO existing, refused
    FROM unnest(p_key, p_fingerprint) WITH ORDINALITY u(k, f, o)
    LEFT JOIN ledger_ledgertransaction t ON t.key = u.k;
  IF refused IS NULL THEN
    SELECT jsonb_build_object('code', CASE WHEN t.reverses_id = u.r THEN 'already_reversed' ELSE 'already_resolved' END,
                              'key', u.k, 'by', t.key, 'status', t.status)
      INTO refused
      FROM unnest(p_key, p_reverses, p_resolves, existing) u(k, r, s, e)
      JOIN ledger_ledgertransaction t ON t.reverses_id = u.r OR t.resolves_id = u.s
     WHERE u.e IS NULL LIMIT 1;
  END IF;
  IF refused IS NOT NULL THEN
    RETURN QUERY SELECT NULL::uuid, NULL::timestamptz, false, refused;
    RETURN;
  END IF;

  IF array_position(existing, NULL) IS NOT NULL THEN
    SELECT array_agg(d.account), array_agg(d.posted), array_agg(d.held_dr), array_agg(d.held_cr),
           array_agg(d.entries)
      INTO d_account, d_posted, d_held_dr, d_held_cr, d_entries
      FROM (
        SELECT m.account, sum(m.posted)::bigint AS posted, sum(m.held_dr)::bigint AS held_dr,
               sum(m.held_cr)::bigint AS held_cr, sum(m.entries)::bigint AS entries
          FROM (
            SELECT accounts[u.o] AS account,
                   CASE p_status[u.x] WHEN 'posted' THEN u.m ELSE 0 END AS posted,
                   CASE p_status[u.x] WHEN 'pending' THEN greatest(-u.m, 0) ELSE 0 END AS held_dr,
                   CASE p_status[u.x] WHEN 'pending' THEN greatest(u.m, 0) ELSE 0 END AS held_cr,
                   CASE p_status[u.x] WHEN 'posted' THEN 1 ELSE 0 END AS entries
              FROM unnest(e_posting, e_amount) WITH ORDINALITY u(x, m, o) WHERE existing[u.x] IS NULL
            UNION ALL
            SELECT h.account_id, 0, -greatest(-h.amount, 0), -greatest(h.amount, 0), 0
              FROM unnest(p_resolves, existing) u(s, e)
              JOIN ledger_ledgerhold h ON h.transaction_id = u.s WHERE u.e IS NULL
          ) m GROUP BY m.account
      ) d;

    SELECT jsonb_build_object(
             'code', CASE WHEN abs(b.posted + d.posted) > 9007199254740991 THEN 'balance_overflow'
                          ELSE 'insufficient_funds' END,
             'account', b.account_id, 'balance', b.posted - b.held_dr, 'amount', d.held_dr - d.posted)
      INTO refused
      FROM unnest(d_account, d_posted, d_held_dr) d(account, posted, held_dr)
      JOIN ledger_ledgerbalance b ON b.account_id = d.account
     WHERE abs(b.posted + d.posted) > 9007199254740991
        OR (d.posted < d.held_dr AND b.posted + d.posted - b.held_dr - d.held_dr < b.floor)
     ORDER BY b.account_id LIMIT 1;
    IF refused IS NOT NULL THEN
      RETURN QUERY SELECT NULL::uuid, NULL::timestamptz, false, refused;
      RETURN;
    END IF;

    recorded := clock_timestamp();
    INSERT INTO ledger_ledgertransaction (id, key, fingerprint, status, source, recipe, description, actor,
                                          effective_at, recorded_at, reverses_id, resolves_id)
      SELECT u.id, u.k, u.f, u.status, u.source, u.recipe, u.description, p_actor, u.effective_at, recorded, u.r, u.s
        FROM unnest(p_id, p_key, p_fingerprint, p_status, p_source, p_recipe, p_description,
                    p_effective_at, p_reverses, p_resolves, existing)
             u(id, k, f, status, source, recipe, description, effective_at, r, s, e)
       WHERE u.e IS NULL ORDER BY u.k;

    INSERT INTO ledger_ledgerhold (transaction_id, account_id, amount)
      SELECT p_id[u.x], accounts[u.o], u.m FROM unnest(e_posting, e_amount) WITH ORDINALITY u(x, m, o)
       WHERE existing[u.x] IS NULL AND p_status[u.x] = 'pending' ORDER BY u.o;

    INSERT INTO ledger_ledgerentry (account_id, version, transaction_id, amount, balance_after,
                                    effective_at, recorded_at)
      SELECT e.account, b.version + e.place, p_id[e.x], e.m, b.posted + e.run, p_effective_at[e.x], recorded
        FROM (SELECT accounts[u.o] AS account, u.x, u.m, row_number() OVER w AS place, sum(u.m) OVER w AS run
                FROM unnest(e_posting, e_amount) WITH ORDINALITY u(x, m, o)
               WHERE existing[u.x] IS NULL AND p_status[u.x] = 'posted'
              WINDOW w AS (PARTITION BY accounts[u.o] ORDER BY u.o)) e
        JOIN ledger_ledgerbalance b ON b.account_id = e.account;

    UPDATE ledger_ledgerbalance b
       SET posted = b.posted + d.posted, held_dr = b.held_dr + d.held_dr, held_cr = b.held_cr + d.held_cr,
           version = b.version + d.entries
      FROM unnest(d_account, d_posted, d_held_dr, d_held_cr, d_entries)
             d(account, posted, held_dr, held_cr, entries)
     WHERE b.account_id = d.account;

    INSERT INTO ledger_ledgerday AS l (account_id, day, amount)
      SELECT accounts[u.o], (p_effective_at[u.x] AT TIME ZONE 'UTC')::date, sum(u.m)
        FROM unnest(e_posting, e_amount) WITH ORDINALITY u(x, m, o)
       WHERE existing[u.x] IS NULL AND p_status[u.x] = 'posted' GROUP BY 1, 2 ORDER BY 1, 2
      ON CONFLICT (account_id, day) DO UPDATE SET amount = l.amount + EXCLUDED.amount;
  END IF;

  RETURN QUERY SELECT COALESCE(u.e, u.id), recorded, u.e IS NOT NULL, NULL::jsonb
    FROM unnest(p_id, existing) WITH ORDINALITY u(id, e, o) ORDER BY u.o;
END $$;
"""
UNDO = "DROP FUNCTION ledger_post"


class Migration(migrations.Migration):
    dependencies = [("ledger", "0002_guards")]
    operations = [migrations.RunSQL(POST, UNDO)]

"""The functions that write the ledger; nobody else does.

`ledger_post` takes N transactions (p_ arrays) with M entries (e_ arrays, `e_posting` is the 1-based
position of the entry's transaction; amounts are credit positive) and writes all or nothing. It
answers a row of place 0 that says when, and one for each transaction that was there before
(`replayed`) or was moved out of a closed period (`adjusts_period`, `effective_at`). What it refuses
it answers as `refusal`, writes nothing and leaves the caller's transaction usable.
`ledger_post_pair` and `ledger_transfer` are the shortest way for one posted transaction of two legs:
the first answers NULL and has written nothing where `ledger_post` should be asked, the second asks
it itself and raises what it refuses.

Locks are taken in one order, balance rows by account and stripe and then keys, so that concurrent
calls wait for each other and never deadlock. A writer keeps to one stripe of an account, chosen by
its process. Balance conditions are judged by where the call ends, on payers only. That a transaction
balances is the trigger's to refuse (0002).
"""

from django.db import migrations

OPEN = """
CREATE FUNCTION ledger_open(
  p_owner uuid[], p_kind text[], p_currency text[], p_class text[], p_normal text[], p_stripes int[], p_floor bigint[]
) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
BEGIN ATOMIC
  WITH opened AS (
    INSERT INTO ledger_ledgeraccount (owner_id, kind, currency, account_class, normal, stripes, opened_at)
    -- Under the lock that whoever seals waits for, and later than any seal covers (`opened_at`).
    SELECT u.o, u.k, u.c, u.class, u.normal, u.stripes,
           greatest(clock_timestamp(), (SELECT max(s.until) FROM ledger_ledgerseal s) + interval '1 microsecond')
      FROM unnest(p_owner, p_kind, p_currency, p_class, p_normal, p_stripes) u(o, k, c, class, normal, stripes)
      JOIN parties_organization p ON p.id = u.o
     ORDER BY u.o, u.k, u.c
    ON CONFLICT (owner_id, kind, currency) DO NOTHING RETURNING id, owner_id, kind, currency, stripes)
  INSERT INTO ledger_ledgerbalance (account_id, stripe, stripes, currency, posted, held_dr, held_cr, version, floor, recorded_at)
  SELECT a.id, s.stripe, a.stripes, a.currency, 0, 0, 0, 0, u.floor, now()
    FROM opened a
    JOIN unnest(p_owner, p_kind, p_currency, p_floor) u(o, k, c, floor)
      ON u.o = a.owner_id AND u.k = a.kind AND u.c = a.currency
   CROSS JOIN LATERAL generate_series(0, a.stripes - 1) s(stripe);
END
"""

POST = """
CREATE FUNCTION ledger_post(
  p_id uuid[], p_key text[], p_fingerprint bytea[], p_status text[], p_source text[], p_recipe text[],
  p_description text[], p_actor text, p_effective_at timestamptz[], p_reverses uuid[], p_resolves uuid[],
  e_posting int[], e_owner uuid[], e_kind text[], e_currency text[], e_amount bigint[]
) RETURNS TABLE (place int, recorded_at timestamptz, replayed uuid, adjusts_period uuid, effective_at timestamptz,
                 refusal jsonb)
LANGUAGE plpgsql SECURITY DEFINER
-- Array parameters would be planned anew by every call; a plan made on small tables would scan them when they are large.
SET search_path = public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET random_page_cost = 0
AS $$
#variable_conflict use_column
DECLARE
  n constant int := cardinality(p_key);
  linked constant boolean := cardinality(array_remove(p_reverses || p_resolves, NULL)) > 0;
  looked boolean := false;
  found_ids uuid[];
  existing uuid[] := array_fill(NULL::uuid, ARRAY[n]);
  e_account bigint[];
  e_stripe int[];
  d_account bigint[];
  d_stripe int[];
  d_posted bigint[];
  d_held_dr bigint[];
  d_held_cr bigint[];
  d_entries bigint[];
  earliest timestamptz;
  recorded timestamptz;
  open_from date;
  sealed timestamptz;
  effective timestamptz[] := p_effective_at;
  adjusts uuid[] := array_fill(NULL::uuid, ARRAY[n]);
  written int;
  short jsonb;
  refused jsonb;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'a posting must see which periods were closed and sealed before it' USING ERRCODE = '25001';
  END IF;
  SELECT array_agg(a.id ORDER BY u.o),
         array_agg(CASE a.stripes WHEN 1 THEN 0 ELSE pg_backend_pid() % a.stripes END ORDER BY u.o)
    INTO e_account, e_stripe
    FROM unnest(e_owner, e_kind, e_currency) WITH ORDINALITY u(owner, kind, currency, o)
    LEFT JOIN ledger_ledgeraccount a
      ON a.owner_id = u.owner AND a.kind = u.kind AND a.currency = u.currency;
  IF array_position(e_account, NULL) IS NOT NULL THEN
    RETURN QUERY SELECT 0, NULL::timestamptz, NULL::uuid, NULL::uuid, NULL::timestamptz,
                        '{"code": "unknown_account"}'::jsonb;
    RETURN;
  END IF;

  LOOP
    IF d_account IS NOT NULL THEN  -- what an earlier turn moved
      UPDATE ledger_ledgerbalance b
         SET posted = b.posted - d.posted, held_dr = b.held_dr - d.held_dr, held_cr = b.held_cr - d.held_cr,
             version = b.version - d.entries
        FROM unnest(d_account, d_stripe, d_posted, d_held_dr, d_held_cr, d_entries)
               d(account, stripe, posted, held_dr, held_cr, entries)
       WHERE b.account_id = d.account AND b.stripe = d.stripe;
    END IF;
    IF refused IS NOT NULL AND (looked OR NOT linked) THEN
      RETURN QUERY SELECT 0, NULL::timestamptz, NULL::uuid, NULL::uuid, NULL::timestamptz, refused;
      RETURN;
    END IF;
    looked := looked OR refused IS NOT NULL;  -- what came before it may be its own first time
    EXIT WHEN array_position(existing, NULL) IS NULL;

    WITH delta AS (
      SELECT m.account, m.stripe, sum(m.posted)::bigint AS posted, sum(m.held_dr)::bigint AS held_dr,
             sum(m.held_cr)::bigint AS held_cr, sum(m.entries)::bigint AS entries
        FROM (
          SELECT u.account, u.stripe,
                 CASE p_status[u.x] WHEN 'posted' THEN u.m ELSE 0 END AS posted,
                 CASE p_status[u.x] WHEN 'pending' THEN greatest(-u.m, 0) ELSE 0 END AS held_dr,
                 CASE p_status[u.x] WHEN 'pending' THEN greatest(u.m, 0) ELSE 0 END AS held_cr,
                 CASE p_status[u.x] WHEN 'posted' THEN 1 ELSE 0 END AS entries
            FROM unnest(e_posting, e_account, e_stripe, e_amount) u(x, account, stripe, m)
           WHERE existing[u.x] IS NULL
          UNION ALL
          SELECT h.account_id, h.stripe, 0, -greatest(-h.amount, 0), -greatest(h.amount, 0), 0
            FROM unnest(p_resolves, existing) u(s, e)
            JOIN ledger_ledgerhold h ON h.transaction_id = u.s WHERE linked AND u.e IS NULL
        ) m GROUP BY m.account, m.stripe ORDER BY m.account, m.stripe
    ), moved AS (
      UPDATE ledger_ledgerbalance b
         SET posted = b.posted + d.posted, held_dr = b.held_dr + d.held_dr, held_cr = b.held_cr + d.held_cr,
             version = b.version + d.entries, recorded_at = greatest((SELECT clock_timestamp()), b.recorded_at)
        FROM delta d
       WHERE b.account_id = d.account AND b.stripe = d.stripe
         AND greatest(b.posted + d.posted + b.held_cr + d.held_cr,
                      b.held_dr + d.held_dr - b.posted - d.posted) <= 9007199254740991
         AND least(b.held_dr + d.held_dr, b.held_cr + d.held_cr) >= 0
         AND (d.posted < d.held_dr AND b.posted + d.posted - b.held_dr - d.held_dr < b.floor) IS NOT TRUE
      RETURNING d.*, b.recorded_at)
    SELECT array_agg(m.account), array_agg(m.stripe), array_agg(m.posted), array_agg(m.held_dr), array_agg(m.held_cr),
           array_agg(m.entries), min(m.recorded_at), max(m.recorded_at),
           CASE WHEN count(*) < (SELECT count(*) FROM delta) THEN (
             SELECT to_jsonb(d) FROM delta d
              WHERE (d.account, d.stripe) NOT IN (SELECT x.account, x.stripe FROM moved x) ORDER BY d.account LIMIT 1) END
      INTO d_account, d_stripe, d_posted, d_held_dr, d_held_cr, d_entries, earliest, recorded, short
      FROM moved m;

    refused := NULL;
    IF n > 1 OR linked OR looked OR short IS NOT NULL THEN
      -- Read after the locks: an equal posting that came first has mostly the same accounts, so it is seen here.
      SELECT array_agg(t.id ORDER BY u.o),
             jsonb_agg(jsonb_build_object('code', 'key_conflict', 'key', t.key, 'transaction', t.id))
               FILTER (WHERE t.fingerprint <> u.f) -> 0
        INTO found_ids, refused
        FROM unnest(p_key, p_fingerprint) WITH ORDINALITY u(k, f, o)
        LEFT JOIN ledger_ledgertransaction t ON t.key = u.k;
      IF refused IS NULL AND found_ids <> existing THEN
        existing := found_ids;
        CONTINUE;
      END IF;
      IF refused IS NULL AND linked THEN
        refused := ledger_refuse_linked(p_key, p_status, p_reverses, p_resolves, existing, e_posting, e_account, e_amount);
      END IF;
      IF refused IS NULL AND short IS NOT NULL THEN
        SELECT jsonb_build_object(
                 'code', CASE WHEN greatest(b.posted + s.posted + b.held_cr + s.held_cr,
                                            b.held_dr + s.held_dr - b.posted - s.posted)
                                   > 9007199254740991 THEN 'balance_overflow'
                              WHEN least(b.held_dr + s.held_dr, b.held_cr + s.held_cr) < 0 THEN 'less_is_held'
                              ELSE 'insufficient_funds' END,
                 'account', s.account, 'balance', b.posted - b.held_dr, 'amount', s.held_dr - s.posted)
          INTO refused
          FROM jsonb_to_record(short) s(account bigint, stripe int, posted bigint, held_dr bigint, held_cr bigint)
          JOIN ledger_ledgerbalance b ON b.account_id = s.account AND b.stripe = s.stripe;
      END IF;
      CONTINUE WHEN refused IS NOT NULL;
    END IF;

    -- Read under the locks: whoever closes a period waits for all that could have read it as open.
    SELECT (SELECT p.ends_on FROM ledger_ledgerperiod p WHERE p.status <> 'open' ORDER BY p.ends_on DESC LIMIT 1),
           (SELECT s.until FROM ledger_ledgerseal s ORDER BY s.number DESC LIMIT 1)
      INTO open_from, sealed;
    -- Later than what these stripes have and any seal covers, also when the clock was set back.
    recorded := greatest(recorded, sealed + interval '1 microsecond');
    IF earliest < recorded THEN
      UPDATE ledger_ledgerbalance b SET recorded_at = recorded FROM unnest(d_account, d_stripe) d(account, stripe)
       WHERE b.account_id = d.account AND b.stripe = d.stripe;
    END IF;
    IF open_from IS NOT NULL THEN
      SELECT array_agg(CASE WHEN p.id IS NULL THEN u.at ELSE open_from::timestamp AT TIME ZONE 'UTC' END ORDER BY u.o),
             array_agg(p.id ORDER BY u.o)
        INTO effective, adjusts
        FROM unnest(p_effective_at) WITH ORDINALITY u(at, o)
        LEFT JOIN LATERAL (
          SELECT p.id FROM ledger_ledgerperiod p
           WHERE u.at < open_from::timestamp AT TIME ZONE 'UTC' AND p.status <> 'open'
           ORDER BY p.ends_on <= (u.at AT TIME ZONE 'UTC')::date, p.ends_on LIMIT 1) p ON true;
    END IF;

    INSERT INTO ledger_ledgertransaction (id, key, fingerprint, status, source, recipe, description, actor, effective_at,
                                          recorded_at, reverses_id, resolves_id, adjusts_period_id, meant_at)
      SELECT u.id, u.k, u.f, u.status, u.source, u.recipe, u.description, p_actor, u.effective, recorded, u.r, u.s,
             u.p, CASE WHEN u.p IS NOT NULL THEN u.at END
        FROM unnest(p_id, p_key, p_fingerprint, p_status, p_source, p_recipe, p_description, effective, p_effective_at,
                    p_reverses, p_resolves, adjusts, existing)
             u(id, k, f, status, source, recipe, description, effective, at, r, s, p, e)
       WHERE u.e IS NULL ORDER BY u.k
      ON CONFLICT (key) DO NOTHING;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written < cardinality(array_positions(existing, NULL)) THEN
      IF n > 1 THEN
        RAISE EXCEPTION 'another posting took one of the keys meanwhile' USING ERRCODE = '40001';
      END IF;
      looked := true;
      CONTINUE;
    END IF;

    IF 'pending' = ANY (p_status) THEN
      INSERT INTO ledger_ledgerhold (transaction_id, account_id, stripe, currency, amount)
        SELECT p_id[u.x], u.account, u.stripe, u.c, u.m
          FROM unnest(e_posting, e_account, e_stripe, e_currency, e_amount) WITH ORDINALITY u(x, account, stripe, c, m, o)
         WHERE existing[u.x] IS NULL AND p_status[u.x] = 'pending' ORDER BY u.o;
    END IF;

    INSERT INTO ledger_ledgerentry (account_id, stripe, version, transaction_id, currency, amount, balance_after,
                                    effective_at, recorded_at)
      SELECT e.account, e.stripe, b.version - e.later, p_id[e.x], e.c, e.m, b.posted - e.follows, effective[e.x], recorded
        FROM (SELECT u.account, u.stripe, u.x, u.c, u.m, row_number() OVER w - 1 AS later, sum(u.m) OVER w - u.m AS follows
                FROM unnest(e_posting, e_account, e_stripe, e_currency, e_amount)
                       WITH ORDINALITY u(x, account, stripe, c, m, o)
               WHERE existing[u.x] IS NULL AND p_status[u.x] = 'posted'
              WINDOW w AS (PARTITION BY u.account, u.stripe ORDER BY u.o DESC ROWS UNBOUNDED PRECEDING)) e
        JOIN ledger_ledgerbalance b ON b.account_id = e.account AND b.stripe = e.stripe;
    EXIT;
  END LOOP;

  RETURN QUERY SELECT 0, recorded, NULL::uuid, NULL::uuid, NULL::timestamptz, NULL::jsonb;
  IF open_from IS NOT NULL OR existing <> array_fill(NULL::uuid, ARRAY[n]) THEN
    RETURN QUERY SELECT u.o::int, recorded, u.e, u.p, u.effective, NULL::jsonb
      FROM unnest(existing, effective, adjusts) WITH ORDINALITY u(e, effective, p, o)
     WHERE u.e IS NOT NULL OR u.p IS NOT NULL ORDER BY u.o;
  END IF;
END $$;
"""

LINKED = """
CREATE FUNCTION ledger_refuse_linked(
  p_key text[], p_status text[], p_reverses uuid[], p_resolves uuid[], existing uuid[],
  e_posting int[], e_account bigint[], e_amount bigint[]
) RETURNS jsonb LANGUAGE plpgsql SET search_path = public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
-- What stands against reversing or resolving: done before, or more than there is. NULL when nothing does.
DECLARE
  refused jsonb;
BEGIN
  PERFORM 1 FROM ledger_ledgertransaction t WHERE t.id = ANY (p_reverses || p_resolves) ORDER BY t.id FOR NO KEY UPDATE;

  SELECT jsonb_build_object('code', 'already_resolved', 'key', u.k, 'by', t.key, 'status', t.status) INTO refused
    FROM unnest(p_key, p_resolves, existing) u(k, s, e)
    JOIN ledger_ledgertransaction t ON t.resolves_id = u.s
   WHERE u.e IS NULL LIMIT 1;
  IF refused IS NOT NULL THEN
    RETURN refused;
  END IF;

  SELECT jsonb_build_object('code', 'more_than_pending', 'key', p_key[m.x], 'account', m.account,
                            'amount', abs(m.amount), 'left', abs(COALESCE(h.amount, 0)))
    INTO refused
    FROM (SELECT u.x, u.account, sign(u.m) AS side, sum(u.m)::bigint AS amount
            FROM unnest(e_posting, e_account, e_amount) u(x, account, m)
           WHERE p_resolves[u.x] IS NOT NULL AND existing[u.x] IS NULL GROUP BY 1, 2, 3) m
    LEFT JOIN LATERAL (SELECT sum(h.amount)::bigint AS amount FROM ledger_ledgerhold h
                        WHERE h.transaction_id = p_resolves[m.x] AND h.account_id = m.account AND sign(h.amount) = m.side) h ON true
   WHERE abs(m.amount) > abs(COALESCE(h.amount, 0)) LIMIT 1;
  IF refused IS NOT NULL THEN
    RETURN refused;
  END IF;

  SELECT jsonb_build_object('code', CASE WHEN l.amount = 0 AND o.amount IS NOT NULL THEN 'already_reversed' ELSE 'more_than_posted' END,
                            'key', p_key[m.x], 'account', m.account, 'amount', abs(m.amount), 'left', abs(l.amount),
                            'by', (SELECT min(t.key) FROM ledger_ledgertransaction t WHERE t.reverses_id = m.reversed))
    INTO refused
    FROM (SELECT min(u.x) AS x, p_reverses[u.x] AS reversed, u.account, sign(u.m) AS side, sum(u.m)::bigint AS amount
            FROM unnest(e_posting, e_account, e_amount) u(x, account, m)
           WHERE p_reverses[u.x] IS NOT NULL AND existing[u.x] IS NULL GROUP BY 2, 3, 4) m
    LEFT JOIN LATERAL (SELECT sum(e.amount)::bigint AS amount FROM ledger_ledgerentry e
                        WHERE e.transaction_id = m.reversed AND e.account_id = m.account AND sign(e.amount) = -m.side) o ON true
    LEFT JOIN LATERAL (SELECT sum(e.amount)::bigint AS amount FROM ledger_ledgertransaction t
                         JOIN ledger_ledgerentry e ON e.transaction_id = t.id
                        WHERE t.reverses_id = m.reversed AND e.account_id = m.account AND sign(e.amount) = m.side) r ON true
   CROSS JOIN LATERAL (SELECT COALESCE(o.amount, 0) + COALESCE(r.amount, 0) AS amount) l
   WHERE abs(m.amount) > abs(l.amount) LIMIT 1;
  RETURN refused;
END $$;
"""

# Version 7 (RFC 9562), which PostgreSQL has from 18 on.
UUID7 = """
DO $do$ BEGIN
  IF current_setting('server_version_num')::int >= 180000 THEN
    CREATE FUNCTION ledger_uuid7() RETURNS uuid LANGUAGE sql VOLATILE AS 'SELECT uuidv7()';
  ELSE
    CREATE FUNCTION ledger_uuid7() RETURNS uuid LANGUAGE sql VOLATILE
    RETURN encode(
      set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid())
                PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid;
  END IF;
END $do$;
"""

# Both rows are locked and moved by one statement, in the order of VALUES (no plan without a sequential
# scan has another); what stands against the posting is left to `ledger_post` to say.
MOVE = """
CREATE FUNCTION ledger_move(
  p_id uuid, p_key text, p_fingerprint bytea, p_source text, p_recipe text, p_description text, p_actor text,
  p_effective_at timestamptz, p_one bigint, p_other bigint, p_amount bigint
) RETURNS timestamptz LANGUAGE plpgsql
AS $$
-- Moves p_amount from p_other to p_one, the lower account first; NULL and nothing written unless nothing is unusual.
DECLARE
  a_account bigint;
  a_stripe int;
  a_currency text;
  a_version bigint;
  a_amount bigint;
  a_posted bigint;
  a_recorded timestamptz;
  b_account bigint;
  b_stripe int;
  b_currency text;
  b_version bigint;
  b_amount bigint;
  b_posted bigint;
  b_recorded timestamptz;
  recorded timestamptz;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RETURN NULL;
  END IF;
  WITH moved AS (
    UPDATE ledger_ledgerbalance b
       SET posted = b.posted + d.amount, version = b.version + 1,
           recorded_at = greatest((SELECT clock_timestamp()), b.recorded_at)
      FROM (VALUES (p_one, p_amount), (p_other, -p_amount)) d(account, amount)
     WHERE b.account_id = d.account AND b.stripe = pg_backend_pid() % b.stripes
       AND (d.amount < 0 AND b.posted + d.amount - b.held_dr < b.floor) IS NOT TRUE
       AND greatest(b.posted + d.amount + b.held_cr, b.held_dr - b.posted - d.amount) <= 9007199254740991
    RETURNING b.account_id, b.stripe, b.currency, b.version, d.amount, b.posted, b.recorded_at)
  SELECT a.*, b.* INTO a_account, a_stripe, a_currency, a_version, a_amount, a_posted, a_recorded,
                       b_account, b_stripe, b_currency, b_version, b_amount, b_posted, b_recorded
    FROM moved a LEFT JOIN moved b ON b.account_id <> a.account_id;
  IF b_currency = a_currency THEN
    recorded := greatest(a_recorded, b_recorded);
    IF recorded > least(a_recorded, b_recorded) THEN
      UPDATE ledger_ledgerbalance b SET recorded_at = recorded
        FROM (VALUES (a_account, a_stripe), (b_account, b_stripe)) d(account, stripe)
       WHERE b.account_id = d.account AND b.stripe = d.stripe;
    END IF;
    -- Read under the locks: whoever closes a period or seals waits for all that could have read otherwise.
    INSERT INTO ledger_ledgertransaction (id, key, fingerprint, status, source, recipe, description, actor, effective_at,
                                          recorded_at)
      SELECT p_id, p_key, p_fingerprint, 'posted', p_source, p_recipe, p_description, p_actor, p_effective_at, recorded
       WHERE p_effective_at >= COALESCE((SELECT p.ends_on FROM ledger_ledgerperiod p WHERE p.status <> 'open'
                                          ORDER BY p.ends_on DESC LIMIT 1)::timestamp AT TIME ZONE 'UTC', '-infinity')
         AND recorded > COALESCE((SELECT s.until FROM ledger_ledgerseal s ORDER BY s.number DESC LIMIT 1), '-infinity')
      ON CONFLICT (key) DO NOTHING;
    IF FOUND THEN
      INSERT INTO ledger_ledgerentry (account_id, stripe, version, transaction_id, currency, amount, balance_after,
                                      effective_at, recorded_at)
        VALUES (a_account, a_stripe, a_version, p_id, a_currency, a_amount, a_posted, p_effective_at, recorded),
               (b_account, b_stripe, b_version, p_id, b_currency, b_amount, b_posted, p_effective_at, recorded);
      RETURN recorded;
    END IF;
  END IF;
  UPDATE ledger_ledgerbalance b SET posted = b.posted - d.amount, version = b.version - 1
    FROM (VALUES (a_account, a_stripe, a_amount), (b_account, b_stripe, b_amount)) d(account, stripe, amount)
   WHERE b.account_id = d.account AND b.stripe = d.stripe;
  RETURN NULL;
END $$;
"""

POST_PAIR = """
CREATE FUNCTION ledger_post_pair(
  p_id uuid, p_key text, p_fingerprint bytea, p_source text, p_recipe text, p_description text, p_actor text,
  p_effective_at timestamptz, p_debited uuid, p_debited_kind text, p_credited uuid, p_credited_kind text,
  p_currency text, p_amount bigint
) RETURNS timestamptz LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off SET random_page_cost = 0
AS $$
DECLARE
  debited bigint;
  credited bigint;
BEGIN
  SELECT d.id, c.id INTO debited, credited FROM ledger_ledgeraccount d, ledger_ledgeraccount c
   WHERE d.owner_id = p_debited AND d.kind = p_debited_kind AND d.currency = p_currency
     AND c.owner_id = p_credited AND c.kind = p_credited_kind AND c.currency = p_currency;
  IF debited < credited THEN
    RETURN ledger_move(p_id, p_key, p_fingerprint, p_source, p_recipe, p_description, p_actor, p_effective_at,
                       debited, credited, -p_amount);
  ELSIF debited > credited THEN
    RETURN ledger_move(p_id, p_key, p_fingerprint, p_source, p_recipe, p_description, p_actor, p_effective_at,
                       credited, debited, p_amount);
  END IF;
  RETURN NULL;
END $$;
"""

TRANSFER = """
CREATE FUNCTION ledger_transfer(
  p_key text, p_from bigint, p_to bigint, p_amount bigint, p_effective_at timestamptz DEFAULT now(),
  p_source text DEFAULT 'sql:transfer', p_recipe text DEFAULT 'transfer', p_description text DEFAULT '',
  p_actor text DEFAULT 'system:sql'
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off SET random_page_cost = 0
AS $$
DECLARE
  content constant bytea := sha256(convert_to(concat_ws(' ', p_from, p_to, p_amount, p_source, p_recipe), 'UTF8'));
  made constant uuid := ledger_uuid7();
  other record;
BEGIN
  IF p_amount <= 0 OR p_from = p_to THEN
    RAISE EXCEPTION 'a transfer moves more than nothing between two accounts' USING ERRCODE = '22023';
  ELSIF p_amount > 9007199254740991 THEN
    RAISE EXCEPTION 'p_amount is %, larger than 2^53 - 1 minor units', p_amount USING ERRCODE = '22003';
  ELSIF ledger_move(made, p_key, content, p_source, p_recipe, p_description, p_actor, p_effective_at,
                    least(p_from, p_to), greatest(p_from, p_to),
                    CASE WHEN p_from < p_to THEN -p_amount ELSE p_amount END) IS NOT NULL THEN
    RETURN made;
  END IF;
  SELECT p.* INTO other FROM ledger_ledgeraccount f, ledger_ledgeraccount t, LATERAL ledger_post(
    ARRAY[made], ARRAY[p_key], ARRAY[content], ARRAY['posted'], ARRAY[p_source], ARRAY[p_recipe], ARRAY[p_description],
    p_actor, ARRAY[p_effective_at], ARRAY[NULL::uuid], ARRAY[NULL::uuid], ARRAY[1, 1], ARRAY[f.owner_id, t.owner_id],
    ARRAY[f.kind::text, t.kind], ARRAY[f.currency::text, t.currency], ARRAY[-p_amount, p_amount]) p
   WHERE f.id = p_from AND t.id = p_to ORDER BY p.place DESC LIMIT 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'p_from or p_to is no account' USING ERRCODE = '22023';
  ELSIF other.refusal ->> 'code' = 'key_conflict' THEN
    RAISE EXCEPTION 'the key % was used before for a posting with other content', p_key USING ERRCODE = '23505';
  ELSIF other.refusal IS NOT NULL THEN
    RAISE EXCEPTION 'the ledger refuses the transfer: %', other.refusal ->> 'code'
      USING ERRCODE = '23514', DETAIL = other.refusal;
  END IF;
  RETURN COALESCE(other.replayed, made);
END $$;
"""

UNDO = "DROP FUNCTION ledger_transfer, ledger_post_pair, ledger_move, ledger_uuid7, ledger_post, ledger_refuse_linked, ledger_open"


class Migration(migrations.Migration):
    dependencies = [("ledger", "0002_guards")]
    operations = [migrations.RunSQL([OPEN, LINKED, POST, UUID7, MOVE, POST_PAIR, TRANSFER], UNDO)]

"""The SQL of the ledger's benchmark: pgbench scripts, the raw limit, and a history that is loaded at once."""

# One transfer through the documented entry point; :first is the lowest of :accounts ids in a row,
# :hot an account of the platform.
RANDOM = r"""
\set payer random(0, :accounts - 1)
\set step random(1, :accounts - 1)
\set from :first + :payer
\set to :first + (:payer + :step) % :accounts
SELECT ledger_transfer('bench-' || gen_random_uuid(), :from, :to, 100, now())
"""
HOT = r"""
\set from :first + random(0, :accounts - 1)
SELECT ledger_transfer('bench-' || gen_random_uuid(), :from, :hot, 100, now())
"""

# The same rows in one statement, with nothing that could refuse them.
RAW_TABLES = """
CREATE SCHEMA raw
  CREATE TABLE txn (id uuid PRIMARY KEY, key text UNIQUE, effective_at timestamptz, recorded_at timestamptz)
  CREATE TABLE balance (account_id bigint PRIMARY KEY, posted bigint, version bigint) WITH (fillfactor = 50)
  CREATE TABLE entry (account_id bigint, version bigint, txn_id uuid, amount bigint, balance_after bigint,
                      effective_at timestamptz, recorded_at timestamptz, PRIMARY KEY (account_id, version))
  CREATE INDEX entry_txn ON entry (txn_id);
GRANT USAGE ON SCHEMA raw TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA raw TO PUBLIC;
"""
RAW_ACCOUNTS = "INSERT INTO raw.balance SELECT n, 0, 0 FROM generate_series(1, %s::int) n"
RAW = r"""
\set from random(1, :accounts)
\set step random(1, :accounts - 1)
\set to 1 + (:from - 1 + :step) % :accounts
WITH t AS (INSERT INTO raw.txn VALUES (uuidv7(), 'bench-' || gen_random_uuid(), now(), now()) RETURNING id),
b AS (UPDATE raw.balance b SET posted = b.posted + d.amount, version = b.version + 1
        FROM (VALUES (:from::bigint, -100), (:to::bigint, 100)) d(account_id, amount)
       WHERE b.account_id = d.account_id RETURNING b.account_id, b.version, d.amount, b.posted)
INSERT INTO raw.entry SELECT b.account_id, b.version, t.id, b.amount, b.posted, now(), now() FROM b, t
"""

# Years of postings written straight into the tables: the i-th credits %(account)s and debits the next
# stripe of %(other)s; every twentieth is back-dated by up to two months.
_MOVEMENTS = """
CREATE TEMP TABLE movement AS
SELECT i, m.at AS recorded_at,
       m.at - CASE WHEN i %% 20 = 0 THEN (i / 20 %% 60) * interval '1 day' ELSE '0' END AS effective_at,
       lpad(to_hex(%(account)s::bigint * 10000000 + i), 32, '0')::uuid AS id
  FROM generate_series(1, %(entries)s) i
 CROSS JOIN LATERAL (
   SELECT now() - interval '3 years' + i * ((interval '3 years' - interval '1 hour') / %(entries)s)) m(at)
"""
_TRANSACTIONS = """
INSERT INTO ledger_ledgertransaction (id, key, fingerprint, status, source, recipe, description, actor,
                                      effective_at, recorded_at)
SELECT id, id::text, sha256(uuid_send(id)), 'posted', 'bench:' || %(account)s, 'transfer', '', 'system:bench',
       effective_at, recorded_at
  FROM movement
"""
_ENTRIES = """
INSERT INTO ledger_ledgerentry (account_id, stripe, version, transaction_id, currency, amount, balance_after,
                                effective_at, recorded_at)
SELECT %(account)s, 0, i, id, 'USD', 100, 100 * i, effective_at, recorded_at FROM movement
UNION ALL
SELECT %(other)s, i %% s.stripes, v.version, id, 'USD', -100, -100 * v.version, effective_at, recorded_at
  FROM movement
 CROSS JOIN (SELECT stripes FROM ledger_ledgeraccount WHERE id = %(other)s) s
 CROSS JOIN LATERAL (SELECT (i + s.stripes - 1) / s.stripes AS version) v
"""
_BALANCES = """
UPDATE ledger_ledgerbalance b SET posted = e.posted, version = e.version, recorded_at = e.recorded_at
  FROM (SELECT account_id, stripe, sum(amount) AS posted, count(*) AS version, max(recorded_at) AS recorded_at
          FROM ledger_ledgerentry WHERE account_id IN (%(account)s, %(other)s) GROUP BY account_id, stripe) e
 WHERE b.account_id = e.account_id AND b.stripe = e.stripe
"""
HISTORY = (_MOVEMENTS, _TRANSACTIONS, _ENTRIES, _BALANCES, "DROP TABLE movement")
KEEP = "SELECT ledger_keep(20000, '0', '5s')"
ENTRIES = "SELECT count(*) FROM ledger_ledgerentry"

# django-hordak's rows, past its deferred triggers, which would take minutes.
HORDAK_HISTORY = """
SET session_replication_role = replica;
WITH t AS (
  INSERT INTO hordak_transaction (uuid, timestamp, date, description)
  SELECT gen_random_uuid(), now(), (now() - i * (interval '3 years' / %(entries)s))::date, ''
    FROM generate_series(1, %(entries)s) i RETURNING id)
INSERT INTO hordak_leg (uuid, transaction_id, account_id, credit, debit, currency, description)
SELECT gen_random_uuid(), t.id, l.account_id, l.credit, l.debit, 'USD', ''
  FROM t CROSS JOIN (VALUES (%(account)s, 1.00, NULL), (%(other)s, NULL, 1.00)) l(account_id, credit, debit);
SET session_replication_role = DEFAULT;
"""

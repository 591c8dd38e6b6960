"""What must be true of the ledger, one statement each: it answers (type, subject, detail) of what is wrong.

A statement looks at what was recorded after `since`, at entries after `after`, which is never before
the `horizon` where those begin that are not archived; days are folded up to `sealed`. It scans in sets
and looks closely only at what does not add up, so a sound ledger costs one pass.
"""

import json
from dataclasses import asdict, dataclass

from ledger.rules.kinds import Kind

LIMIT = 100
NATURES = json.dumps([{"kind": kind, **asdict(kind.nature)} for kind in Kind])


@dataclass(frozen=True)
class Check:
    """`code` is the invariant that it belongs to (docs/operations.md)."""

    code: str
    title: str
    sql: str


ZERO = """
SELECT 'ledger_not_zero', 'currency:' || a.currency,
       concat('All ', a.currency, ' accounts together are off by ', sum(b.posted), '.')
  FROM ledger_ledgerbalance b JOIN ledger_ledgeraccount a ON a.id = b.account_id
 GROUP BY a.currency HAVING sum(b.posted) <> 0
"""

BALANCED = """
SELECT 'unbalanced', 'transaction:' || e.transaction_id,
       concat('The entries are off by ', sum(e.amount), ' in ', e.currency, '.')
  FROM ledger_ledgerentry e WHERE e.recorded_at > %(after)s::timestamptz
 GROUP BY e.transaction_id, e.currency HAVING sum(e.amount) <> 0 ORDER BY min(e.recorded_at) LIMIT %(limit)s
"""

BELONGING = """
SELECT CASE WHEN e.transaction_id IS NULL THEN 'entries_missing'
            WHEN t.id IS NULL OR a.id IS NULL OR t.status <> 'posted' THEN 'orphan_entry'
            WHEN e.currency <> a.currency THEN 'currency_differs' ELSE 'entry_differs' END,
       CASE WHEN e.transaction_id IS NULL THEN 'transaction:' || t.id
            ELSE concat('entry:', e.account_id, '/', e.stripe, '#', e.version) END,
       CASE WHEN e.transaction_id IS NULL THEN concat('It is ', t.status, ' and moves nothing.')
            WHEN t.id IS NULL THEN concat('There is no transaction ', e.transaction_id, ' of that time.')
            WHEN a.id IS NULL THEN concat('There is no account ', e.account_id, '.')
            WHEN t.status <> 'posted' THEN concat('Its transaction ', t.id, ' is ', t.status, '.')
            WHEN e.currency <> a.currency
            THEN concat('It moves ', e.currency, ' on an account in ', a.currency, '.')
            ELSE concat('Its instants are not those of transaction ', t.id, '.') END
  FROM (SELECT * FROM ledger_ledgerentry WHERE recorded_at > %(after)s::timestamptz) e
  FULL JOIN (SELECT * FROM ledger_ledgertransaction WHERE recorded_at > %(after)s::timestamptz) t
    ON t.id = e.transaction_id
  LEFT JOIN ledger_ledgeraccount a ON a.id = e.account_id
 WHERE (e.transaction_id IS NULL AND t.status <> 'discarded'
        AND NOT (t.status = 'pending'
                 AND EXISTS (SELECT FROM ledger_ledgerhold h WHERE h.transaction_id = t.id)))
    OR (e.transaction_id IS NOT NULL
        AND (t.id IS NULL OR a.id IS NULL OR t.status <> 'posted' OR e.currency <> a.currency
             OR e.effective_at <> t.effective_at OR e.recorded_at <> t.recorded_at))
 ORDER BY COALESCE(e.recorded_at, t.recorded_at), t.id, e.account_id, e.version LIMIT %(limit)s
"""

# Judged by the floor of the kind, whatever the balance says that it is.
OVERDRAWN = """
SELECT w.type, 'account:' || a.id, w.detail
  FROM ledger_ledgerbalance b JOIN ledger_ledgeraccount a ON a.id = b.account_id
  JOIN jsonb_to_recordset(%(natures)s) n(kind text, floor bigint) ON n.kind = a.kind
 CROSS JOIN LATERAL (VALUES
   ('overdrawn', b.posted - b.held_dr < n.floor,
    concat(a.kind, ' holds ', b.posted - b.held_dr, ', floor ', n.floor, '.')),
   ('floor_differs', b.floor IS DISTINCT FROM n.floor,
    concat('Its floor is ', COALESCE(b.floor::text, 'gone'), '; that of ', a.kind, ' is ',
           COALESCE(n.floor::text, 'none'), '.'))) w(type, wrong, detail)
 WHERE (b.posted - b.held_dr < n.floor OR b.floor IS DISTINCT FROM n.floor) AND w.wrong
 ORDER BY a.id, b.stripe, w.type LIMIT %(limit)s
"""

ACCOUNTS = """
SELECT CASE WHEN a.sound THEN 'stripes_differ' ELSE 'account_differs' END, 'account:' || a.id,
       CASE WHEN a.sound
            THEN concat('It has ', a.stripes, ' stripes in ', a.currency, '; of its ', a.balances,
                        ' balances ', a.own, ' are such.')
            ELSE concat('It is ', a.account_class, ', ', a.normal, ', ', a.stripes, ' stripes; ',
                        COALESCE(a.nature, 'there is no kind ' || a.kind), '.') END
  FROM (SELECT a.*, count(b.stripe) AS balances,
               count(*) FILTER (WHERE b.stripe < a.stripes AND b.stripes = a.stripes
                                  AND b.currency = a.currency) AS own,
               COALESCE((a.account_class, a.normal, a.stripes) = (n.account_class, n.normal, n.stripes),
                        false) AS sound,
               n.kind || ' is ' || concat_ws(', ', n.account_class, n.normal, n.stripes) AS nature
          FROM ledger_ledgeraccount a
          LEFT JOIN jsonb_to_recordset(%(natures)s)
                      n(kind text, account_class text, normal text, stripes int) ON n.kind = a.kind
          LEFT JOIN ledger_ledgerbalance b ON b.account_id = a.id
         GROUP BY a.id, n.kind, n.account_class, n.normal, n.stripes) a
 WHERE NOT a.sound OR a.balances <> a.stripes OR a.own <> a.stripes
 ORDER BY a.id LIMIT %(limit)s
"""

REFERENCES = """
SELECT 'reference_missing', 'transaction:' || n.id, concat('It ', n.verb, ' ', n.named, '; there is none.')
  FROM (SELECT t.id, t.recorded_at, 'reverses transaction' AS verb, t.reverses_id AS named, o.id AS found
          FROM ledger_ledgertransaction t LEFT JOIN ledger_ledgertransaction o ON o.id = t.reverses_id
         WHERE t.reverses_id IS NOT NULL
        UNION ALL
        SELECT t.id, t.recorded_at, 'resolves transaction', t.resolves_id, o.id
          FROM ledger_ledgertransaction t LEFT JOIN ledger_ledgertransaction o ON o.id = t.resolves_id
         WHERE t.resolves_id IS NOT NULL
        UNION ALL
        SELECT t.id, t.recorded_at, 'adjusts period', t.adjusts_period_id, p.id
          FROM ledger_ledgertransaction t LEFT JOIN ledger_ledgerperiod p ON p.id = t.adjusts_period_id
         WHERE t.adjusts_period_id IS NOT NULL) n
 WHERE n.found IS NULL AND n.recorded_at > %(after)s::timestamptz ORDER BY n.recorded_at LIMIT %(limit)s
"""

# Each entry hashes what it starts from and what it leads to; in a chain without a break these cancel out
# and the two ends remain. Only a stripe whose ends differ is walked entry by entry.
STRIPES = """
WITH wrong AS (
  SELECT account_id, stripe, b.posted, b.version, b.recorded_at AS said,
         COALESCE(e.recorded_at, p.recorded_at) AS recorded_at,
         COALESCE(e.amount, 0) + COALESCE(p.balance_after, 0) AS amount,
         COALESCE(e.entries, 0) + COALESCE(p.version, 0) AS entries,
         COALESCE(p.balance_after, 0) AS before, COALESCE(p.version, 0) AS numbered
    FROM (SELECT e.account_id, e.stripe, sum(e.amount) AS amount, count(*) AS entries,
                 max(e.recorded_at) AS recorded_at,
                 bit_xor(hashint8extended(e.balance_after, e.version)
                         # hashint8extended(e.balance_after - e.amount, e.version - 1)) AS chain
            FROM ledger_ledgerentry e WHERE e.recorded_at > %(after)s::timestamptz
           GROUP BY e.account_id, e.stripe) e
    FULL JOIN ledger_ledgerbalance b USING (account_id, stripe)
    LEFT JOIN LATERAL (
      (SELECT x.balance_after, x.version, x.recorded_at FROM ledger_ledgerentry x
        WHERE x.account_id = COALESCE(b.account_id, e.account_id) AND x.stripe = COALESCE(b.stripe, e.stripe)
          AND x.recorded_at <= %(after)s::timestamptz AND x.recorded_at >= %(horizon)s::timestamptz
        ORDER BY x.recorded_at DESC, x.version DESC LIMIT 1)
      UNION ALL
      (SELECT x.balance_after, x.version, x.recorded_at FROM ledger_ledgercarriedbalance x
        WHERE x.account_id = COALESCE(b.account_id, e.account_id) AND x.stripe = COALESCE(b.stripe, e.stripe)
          AND x.recorded_at < %(horizon)s::timestamptz
        ORDER BY x.version DESC LIMIT 1)
      ORDER BY version DESC LIMIT 1) p ON true
   WHERE b.version IS NULL
      OR b.posted <> COALESCE(e.amount, 0) + COALESCE(p.balance_after, 0)
      OR b.version <> COALESCE(e.entries, 0) + COALESCE(p.version, 0)
      OR b.recorded_at < COALESCE(e.recorded_at, p.recorded_at)
      OR b.recorded_at > clock_timestamp() + interval '1 hour'
      OR COALESCE(e.chain, 0) <> hashint8extended(b.posted, b.version)
                               # hashint8extended(COALESCE(p.balance_after, 0), COALESCE(p.version, 0))
   ORDER BY 1, 2 LIMIT %(limit)s)
SELECT 'balance_not_sum', 'account:' || w.account_id,
       concat('Stripe ', w.stripe, ' says ', COALESCE(w.posted::text, 'nothing'), ' after ',
              COALESCE(w.version, 0), ' entries; there are ', w.entries, ' and their sum is ', w.amount, '.')
  FROM wrong w WHERE w.posted IS DISTINCT FROM w.amount OR w.version IS DISTINCT FROM w.entries
UNION ALL
SELECT 'balance_instant', 'account:' || w.account_id,
       concat('Stripe ', w.stripe, ' says that it moved last at ', w.said, '; it did at ', w.recorded_at, '.')
  FROM wrong w WHERE w.said < w.recorded_at OR w.said > clock_timestamp() + interval '1 hour'
UNION ALL
SELECT CASE WHEN x.version <> x.numbered + 1 THEN 'gap_in_versions' ELSE 'running_balance' END,
       concat('entry:', w.account_id, '/', w.stripe, '#', x.version),
       CASE WHEN x.version <> x.numbered + 1 THEN concat('It follows number ', x.numbered, '.')
            ELSE concat('It says ', x.balance_after, '; ', x.before, ' and ', x.amount, ' are ',
                        x.before + x.amount, '.') END
  FROM wrong w CROSS JOIN LATERAL (
    SELECT y.* FROM (
      SELECT e.recorded_at, e.version, e.amount, e.balance_after,
             lag(e.version, 1, w.numbered) OVER follows AS numbered,
             lag(e.balance_after, 1, w.before) OVER follows AS before
        FROM ledger_ledgerentry e
       WHERE e.account_id = w.account_id AND e.stripe = w.stripe AND e.recorded_at > %(after)s::timestamptz
      WINDOW follows AS (ORDER BY e.recorded_at, e.version)) y
     WHERE y.version <> y.numbered + 1 OR y.balance_after <> y.before + y.amount
     ORDER BY y.recorded_at, y.version LIMIT 1) x
"""

# Only where what was set aside lately is not all are the account's holds of all times added up.
HOLDS = """
WITH lately AS (
  SELECT h.account_id, h.stripe, sum(greatest(-h.amount, 0)) AS dr, sum(greatest(h.amount, 0)) AS cr
    FROM ledger_ledgertransaction t JOIN ledger_ledgerhold h ON h.transaction_id = t.id
   WHERE t.recorded_at > %(after)s::timestamptz AND t.status = 'pending'
     AND NOT EXISTS (SELECT FROM ledger_ledgertransaction r WHERE r.resolves_id = t.id)
   GROUP BY 1, 2)
SELECT 'hold_not_sum', 'account:' || account_id,
       concat('Stripe ', stripe, ' holds ', COALESCE(b.held_dr, 0), ' and ', COALESCE(b.held_cr, 0),
              '; pending transactions hold ', COALESCE(h.dr, 0), ' and ', COALESCE(h.cr, 0), '.')
  FROM ledger_ledgerbalance b FULL JOIN lately l USING (account_id, stripe)
 CROSS JOIN LATERAL (
   SELECT sum(greatest(-h.amount, 0)) AS dr, sum(greatest(h.amount, 0)) AS cr FROM ledger_ledgerhold h
    WHERE h.account_id = COALESCE(b.account_id, l.account_id) AND h.stripe = COALESCE(b.stripe, l.stripe)
      AND NOT EXISTS (SELECT FROM ledger_ledgertransaction r WHERE r.resolves_id = h.transaction_id)) h
 WHERE (COALESCE(b.held_dr, 0), COALESCE(b.held_cr, 0)) <> (COALESCE(l.dr, 0), COALESCE(l.cr, 0))
   AND (COALESCE(b.held_dr, 0), COALESCE(b.held_cr, 0)) <> (COALESCE(h.dr, 0), COALESCE(h.cr, 0))
 ORDER BY account_id LIMIT %(limit)s
"""

RESOLVED = """
SELECT 'resolved_twice', 'transaction:' || p.id,
       concat(count(*), ' transactions resolve it, and it is ', p.status, '.')
  FROM (SELECT DISTINCT t.resolves_id FROM ledger_ledgertransaction t
         WHERE t.resolves_id IS NOT NULL AND t.recorded_at > %(after)s::timestamptz) n
  JOIN ledger_ledgertransaction p ON p.id = n.resolves_id
  JOIN ledger_ledgertransaction t ON t.resolves_id = p.id
 GROUP BY p.id HAVING count(*) > 1 OR p.status <> 'pending' ORDER BY p.recorded_at LIMIT %(limit)s
"""

REVERSED = """
SELECT 'reversal_exceeds', 'transaction:' || r.reverses_id,
       concat('It moved ', COALESCE(o.amount, 0), ' on account ', r.account_id,
              '; its reversals took back ', r.amount, '.')
  FROM (SELECT t.reverses_id, e.account_id, sign(e.amount) AS side, sum(e.amount) AS amount
          FROM ledger_ledgertransaction t JOIN ledger_ledgerentry e ON e.transaction_id = t.id
         WHERE t.reverses_id IN (SELECT n.reverses_id FROM ledger_ledgertransaction n
                                   LEFT JOIN ledger_ledgertransaction o ON o.id = n.reverses_id
                                  WHERE n.reverses_id IS NOT NULL AND n.recorded_at > %(after)s::timestamptz
                                    AND (o.id IS NULL OR o.recorded_at >= %(horizon)s::timestamptz))
         GROUP BY 1, 2, 3) r
  LEFT JOIN LATERAL (SELECT sum(e.amount) AS amount FROM ledger_ledgerentry e
                      WHERE e.transaction_id = r.reverses_id AND e.account_id = r.account_id
                        AND sign(e.amount) = -r.side) o ON true
 WHERE abs(r.amount) > abs(COALESCE(o.amount, 0)) ORDER BY 2 LIMIT %(limit)s
"""

DAYS = """
SELECT 'day_not_sum', concat('day:', account_id, '/', day, '/', recorded_day),
       concat('It says ', COALESCE(d.debit, 0), ' and ', COALESCE(d.credit, 0), ' in ',
              COALESCE(d.entries, 0), ' entries; they are ',
              COALESCE(e.debit, 0), ' and ', COALESCE(e.credit, 0), ' in ', COALESCE(e.entries, 0), '.')
  FROM (SELECT * FROM ledger_ledgerday
         WHERE recorded_day >= (greatest(%(since)s, %(horizon)s::timestamptz) AT TIME ZONE 'UTC')::date) d
  FULL JOIN (SELECT e.account_id, (e.effective_at AT TIME ZONE 'UTC')::date AS day,
                    (e.recorded_at AT TIME ZONE 'UTC')::date AS recorded_day,
                    sum(greatest(-e.amount, 0)) AS debit, sum(greatest(e.amount, 0)) AS credit,
                    count(*) AS entries
               FROM ledger_ledgerentry e
              WHERE e.recorded_at >= date_trunc('day', greatest(%(since)s, %(horizon)s::timestamptz), 'UTC')
                AND e.recorded_at <= %(sealed)s::timestamptz
              GROUP BY 1, 2, 3) e USING (account_id, day, recorded_day)
 WHERE (d.debit, d.credit, d.entries) IS DISTINCT FROM (e.debit, e.credit, e.entries)
 ORDER BY recorded_day, day, account_id LIMIT %(limit)s
"""

MONTHS = """
SELECT 'month_not_sum', concat('month:', account_id, '/', month, '/', recorded_month),
       concat('It says ', COALESCE(m.debit, 0), ' and ', COALESCE(m.credit, 0), '; its days are ',
              COALESCE(d.debit, 0), ' and ', COALESCE(d.credit, 0), '.')
  FROM (SELECT * FROM ledger_ledgermonth
         WHERE recorded_month >= date_trunc('month', %(since)s::timestamptz AT TIME ZONE 'UTC')) m
  FULL JOIN (SELECT account_id, date_trunc('month', day)::date AS month,
                    date_trunc('month', recorded_day)::date AS recorded_month,
                    sum(debit) AS debit, sum(credit) AS credit
               FROM ledger_ledgerday
              WHERE recorded_day >= date_trunc('month', %(since)s::timestamptz AT TIME ZONE 'UTC')
              GROUP BY 1, 2, 3) d USING (account_id, month, recorded_month)
 WHERE (m.debit, m.credit) IS DISTINCT FROM (d.debit, d.credit)
 ORDER BY recorded_month, month, account_id LIMIT %(limit)s
"""

# Each period opens with what the one before closed with, and the latest closed with what is held now less
# what moved since: so the latest and what was closed lately is enough to look at.
PERIODS = """
WITH closed AS (
  SELECT p.id, p.starts_on, p.ends_on, row_number() OVER (ORDER BY p.starts_on DESC) = 1 AS latest,
         (SELECT max(l.recorded_at) FROM commerce_transitionlog l
           WHERE l.model = 'ledger.ledgerperiod' AND l.object_id = p.id::text
             AND l.name = 'finish_closing') AS closed_at
    FROM ledger_ledgerperiod p WHERE p.status = 'closed'),
asked AS (
  SELECT * FROM closed c WHERE c.latest OR COALESCE(c.closed_at, 'infinity') > %(since)s::timestamptz),
moved AS (
  SELECT m.account_id, date_trunc('month', m.day)::date AS month,
         sum(m.debit) AS debit, sum(m.credit) AS credit
    FROM (
      SELECT d.account_id, d.day, d.debit, d.credit FROM ledger_ledgerday d
       WHERE d.day >= (SELECT min(starts_on) FROM asked)
      UNION ALL
      SELECT e.account_id, (e.effective_at AT TIME ZONE 'UTC')::date, greatest(-e.amount, 0),
             greatest(e.amount, 0)
        FROM ledger_ledgerentry e
       WHERE e.recorded_at > %(sealed)s::timestamptz) m
   GROUP BY 1, 2),
kept AS (
  SELECT k.*, a.latest FROM ledger_ledgerperiodbalance k JOIN asked a ON a.id = k.period_id)
(SELECT 'posted_into_closed', 'transaction:' || t.id,
        concat('It is effective in the period from ', c.starts_on, ', closed before it was recorded.')
   FROM ledger_ledgertransaction t
   JOIN closed c ON c.starts_on = date_trunc('month', t.effective_at AT TIME ZONE 'UTC')
                AND t.recorded_at > c.closed_at
  WHERE t.recorded_at > %(since)s::timestamptz AND t.status = 'posted' ORDER BY t.recorded_at LIMIT %(limit)s)
UNION ALL
(SELECT 'period_not_sum', concat('period:', period_id, '/', account_id),
        concat('It kept ', COALESCE(k.debit, 0), ' and ', COALESCE(k.credit, 0), '; its entries are ',
               COALESCE(m.debit, 0), ' and ', COALESCE(m.credit, 0), '.')
   FROM kept k
   FULL JOIN (SELECT a.id AS period_id, m.account_id, m.debit, m.credit
                FROM asked a JOIN moved m ON m.month = a.starts_on) m USING (period_id, account_id)
  WHERE (COALESCE(k.debit, 0), COALESCE(k.credit, 0)) <> (COALESCE(m.debit, 0), COALESCE(m.credit, 0))
  ORDER BY 2 LIMIT %(limit)s)
UNION ALL
(SELECT 'period_not_carried', concat('period:', period_id, '/', account_id),
        concat('It opened with ', COALESCE(k.opening, 0), ', after a period that closed with ',
               COALESCE(b.closing, 0), ', and closed with ', COALESCE(k.closing, 0), '.')
   FROM kept k
   FULL JOIN (SELECT a.id AS period_id, x.account_id, x.closing
                FROM asked a JOIN closed c ON c.ends_on = a.starts_on
                JOIN ledger_ledgerperiodbalance x ON x.period_id = c.id) b USING (period_id, account_id)
  WHERE COALESCE(k.opening, 0) <> COALESCE(b.closing, 0) OR k.closing <> k.opening + k.credit - k.debit
  ORDER BY 2 LIMIT %(limit)s)
UNION ALL
(SELECT 'period_not_held', concat('period:', l.id, '/', account_id),
        concat('It closed with ', COALESCE(k.closing, 0), ', ', COALESCE(m.amount, 0), ' moved since, and ',
               COALESCE(b.posted, 0), ' is held.')
   FROM (SELECT account_id, sum(posted) AS posted FROM ledger_ledgerbalance GROUP BY account_id) b
   FULL JOIN (SELECT account_id, closing FROM kept WHERE latest) k USING (account_id)
   FULL JOIN (SELECT m.account_id, sum(m.credit - m.debit) AS amount
                FROM asked a JOIN moved m ON m.month >= a.ends_on WHERE a.latest
               GROUP BY m.account_id) m USING (account_id)
   JOIN asked l ON l.latest
  WHERE COALESCE(k.closing, 0) + COALESCE(m.amount, 0) <> COALESCE(b.posted, 0)
  ORDER BY 2 LIMIT %(limit)s)
"""

PARTITIONS = """
SELECT 'guard_missing', 'table:' || c.relname,
       'Rows of this partition can be changed: guard_append_only is not on.'
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'ledger_ledgerentry'::regclass
   AND NOT EXISTS (SELECT FROM pg_trigger g
                    WHERE g.tgrelid = c.oid AND g.tgname = 'guard_append_only' AND g.tgenabled = 'A')
 ORDER BY 2
"""

# What left is compared with the sums that stayed; each month, and each account as a whole.
ARCHIVED = """
(SELECT 'removal_unfinished', concat('entry:', e.account_id, '/', e.stripe, '#', e.version),
        concat('It was recorded at ', e.recorded_at, ', which has left: the removal has not ended.')
   FROM ledger_ledgerentry e WHERE e.recorded_at < %(horizon)s::timestamptz LIMIT 1)
UNION ALL
(SELECT 'archive_not_sum', 'month:' || a.month,
        concat('It left with ', a.entries, ' entries; its days know ', COALESCE(sum(d.entries), 0), '.')
   FROM (SELECT DISTINCT ON (month) month, entries FROM ledger_ledgerarchive
          WHERE month < (%(horizon)s::timestamptz AT TIME ZONE 'UTC')::date ORDER BY month, id DESC) a
   LEFT JOIN ledger_ledgerday d ON d.recorded_day >= a.month AND d.recorded_day < a.month + interval '1 month'
  WHERE %(since)s::timestamptz = '-infinity'
  GROUP BY a.month, a.entries HAVING a.entries <> COALESCE(sum(d.entries), 0) ORDER BY 2 LIMIT %(limit)s)
UNION ALL
(SELECT 'carried_not_sum', 'account:' || account_id,
        concat('It was carried with ', COALESCE(c.balance, 0), ' after ', COALESCE(c.entries, 0),
               ' entries; its days are ', COALESCE(d.balance, 0), ' in ', COALESCE(d.entries, 0), '.')
   FROM (SELECT x.account_id, sum(x.balance_after) AS balance, sum(x.version) AS entries
           FROM (SELECT DISTINCT ON (account_id, stripe) account_id, balance_after, version
                   FROM ledger_ledgercarriedbalance WHERE recorded_at < %(horizon)s::timestamptz
                  ORDER BY account_id, stripe, version DESC) x GROUP BY x.account_id) c
   FULL JOIN (SELECT account_id, sum(credit - debit) AS balance, sum(entries) AS entries
                FROM ledger_ledgerday WHERE recorded_day < (%(horizon)s::timestamptz AT TIME ZONE 'UTC')::date
               GROUP BY account_id) d USING (account_id)
  WHERE %(since)s::timestamptz = '-infinity' AND %(horizon)s::timestamptz > '-infinity'
    AND (c.balance, c.entries) IS DISTINCT FROM (d.balance, d.entries)
  ORDER BY account_id LIMIT %(limit)s)
"""

UNSEALED = """
SELECT 'not_sealed', 'transaction:' || t.id,
       concat('Recorded at ', t.recorded_at, ' and covered by no seal yet.')
  FROM ledger_ledgertransaction t
 WHERE t.recorded_at > %(sealed)s::timestamptz AND t.recorded_at < clock_timestamp() - interval '1 hour'
 ORDER BY t.recorded_at LIMIT 1
"""

CHECKS = (
    Check("I1", "The whole ledger sums to zero per currency", ZERO),
    Check("I1", "Every transaction sums to zero per currency", BALANCED),
    Check("I1", "Every entry belongs to a transaction and an account", BELONGING),
    Check("I2", "No wallet or payee account is below its floor", OVERDRAWN),
    Check("I7", "Accounts and their balances are what their kind is", ACCOUNTS),
    Check("I7", "What a transaction reverses, resolves or adjusts exists", REFERENCES),
    Check("I7", "A balance is the sum of its entries, each following from the one before", STRIPES),
    Check("I7", "What is set aside is what pending transactions hold", HOLDS),
    Check("I7", "A pending transaction is resolved at most once", RESOLVED),
    Check("I7", "Reversals take back no more than was posted", REVERSED),
    Check("I7", "The sums of days are those of their entries", DAYS),
    Check("I7", "The sums of months are those of their days", MONTHS),
    Check("I7", "Closed periods are as they were closed", PERIODS),
    Check("I7", "What was archived is what the sums of days and the carried balances say", ARCHIVED),
    Check("I10", "No partition of the entries is without its guard", PARTITIONS),
    Check("I10", "What was recorded an hour ago is sealed", UNSEALED),
)

# Sealed blocks: computed again from the rows, and the chain that holds them. Of what is archived the seals
# keep the digests; that the transactions are all there is seen, and their entries when they come back.
# After a block's transactions stand the accounts that were opened in its time.
BLOCKS = """
SELECT s.number, d.differs,
       CASE WHEN s.number > 1 AND p.number IS NULL THEN concat('Seal ', s.number - 1, ' before it is gone.')
            WHEN s.previous <> COALESCE(p.hash, '') THEN 'It does not carry the hash of the seal before it.'
            WHEN s.hash <> ledger_seal_hash(s.previous, s.number, s.until, s.transactions, s.entries,
                                            s.members)
            THEN 'Its hash is not that of its content.'
            WHEN s.until <= p.until THEN 'It ends before the seal before it.'
            WHEN NOT d.differs AND d.miscounted THEN 'It counts other than it covers.' END
  FROM ledger_ledgerseal s
  LEFT JOIN ledger_ledgerseal p ON p.number = s.number - 1
 CROSS JOIN LATERAL (
   SELECT * FROM ledger_block(COALESCE(p.until, '-infinity'), s.until, %(archived)s::timestamptz)) n
 CROSS JOIN LATERAL (
   SELECT count(*) AS transactions FROM ledger_ledgertransaction t
    WHERE t.recorded_at > COALESCE(p.until, '-infinity')
      AND t.recorded_at <= least(s.until, %(archived)s::timestamptz)) a
 CROSS JOIN LATERAL (
   SELECT COALESCE(substring(s.members FROM 1 + (48 * a.transactions)::int) <> n.members
                   OR length(s.members) <> 48 * a.transactions + length(n.members), true) AS differs,
          s.transactions <> a.transactions + n.transactions
          OR (a.transactions = 0 AND s.entries <> n.entries) AS miscounted) d
 WHERE s.number BETWEEN %(first)s AND %(last)s
   AND (d.differs OR d.miscounted OR (p.number IS NULL AND s.number > 1) OR s.previous <> COALESCE(p.hash, '')
        OR s.until <= p.until
        OR s.hash <> ledger_seal_hash(s.previous, s.number, s.until, s.transactions, s.entries, s.members))
 ORDER BY s.number
"""

MEMBERS = """
WITH block AS MATERIALIZED (
  SELECT COALESCE(p.until, '-infinity') AS after, s.until, s.transactions, s.members || ''::bytea AS members
    FROM ledger_ledgerseal s LEFT JOIN ledger_ledgerseal p ON p.number = s.number - 1
   WHERE s.number = %(number)s),
sealed AS (
  SELECT encode(substring(b.members FROM 1 + 48 * i FOR 16), 'hex')::uuid AS id,
         CASE WHEN i >= b.transactions
              THEN ('x' || encode(substring(b.members FROM 9 + 48 * i FOR 8), 'hex'))::bit(64)::bigint
              END AS account,
         substring(b.members FROM 17 + 48 * i FOR 32) AS digest, i AS place
    FROM block b CROSS JOIN LATERAL generate_series(0, length(b.members) / 48 - 1) i),
found AS (
  SELECT d.id, NULL::bigint AS account, d.recorded_at, d.digest FROM block b
   CROSS JOIN LATERAL ledger_digests(greatest(b.after, %(archived)s::timestamptz), b.until) d
  UNION ALL
  SELECT t.id, NULL, t.recorded_at, COALESCE(s.digest, '') FROM block b
    JOIN ledger_ledgertransaction t
      ON t.recorded_at > b.after AND t.recorded_at <= least(b.until, %(archived)s::timestamptz)
    LEFT JOIN sealed s ON s.id = t.id
  UNION ALL
  SELECT o.id, o.account, o.opened_at, o.digest FROM block b
   CROSS JOIN LATERAL ledger_openings(b.after, b.until) o)
SELECT CASE WHEN s.id IS NULL THEN 'row_after_seal'
            WHEN t.id IS NULL AND a.account IS NULL THEN 'sealed_row_missing' ELSE 'sealed_row_changed' END,
       COALESCE('account:' || COALESCE(s.account, f.account), 'transaction:' || id),
       CASE WHEN s.id IS NULL
            THEN concat('Seal ', %(number)s, ' covers its time, ', f.recorded_at, ', and does not know it.')
            WHEN t.id IS NULL AND a.account IS NULL THEN concat('Seal ', %(number)s, ' knows it; it is gone.')
            WHEN a.account IS NOT NULL THEN concat('It is not what seal ', %(number)s, ' sealed.')
            ELSE concat('It, its entries or its holds are not what seal ', %(number)s, ' sealed.') END
  FROM sealed s FULL JOIN found f USING (id)
  LEFT JOIN ledger_ledgertransaction t USING (id)
  LEFT JOIN (SELECT id AS account FROM ledger_ledgeraccount) a ON a.account = s.account
 WHERE s.digest IS DISTINCT FROM f.digest
 ORDER BY s.place NULLS LAST, f.recorded_at, id LIMIT %(limit)s
"""

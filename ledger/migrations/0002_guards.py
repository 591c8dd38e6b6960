"""What the database itself refuses: rewriting history, and entries that do not balance."""

from django.db import migrations

from commerce import guards

BALANCED = """
CREATE FUNCTION ledger_require_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wrong record;
BEGIN
  SELECT e.transaction_id, e.currency, sum(e.amount) AS off INTO wrong
    FROM inserted e GROUP BY e.transaction_id, e.currency HAVING sum(e.amount) <> 0 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'transaction % is off balance by % minor units of %',
      wrong.transaction_id, wrong.off, wrong.currency USING ERRCODE = '23514';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER guard_balanced AFTER INSERT ON ledger_ledgerentry
  REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_require_balance();
CREATE TRIGGER guard_balanced AFTER INSERT ON ledger_ledgerhold
  REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_require_balance();
ALTER TABLE ledger_ledgerentry ENABLE ALWAYS TRIGGER guard_balanced;
ALTER TABLE ledger_ledgerhold ENABLE ALWAYS TRIGGER guard_balanced;
"""
BALANCED_UNDO = """
DROP TRIGGER guard_balanced ON ledger_ledgerentry;
DROP TRIGGER guard_balanced ON ledger_ledgerhold;
DROP FUNCTION ledger_require_balance;
"""

# A domain's rule is read once per session, a CHECK by every statement (docs/decisions/checks.md).
AMOUNTS = """
CREATE DOMAIN ledger_amount AS bigint
  CONSTRAINT amount_moves_something CHECK (VALUE <> 0)
  CONSTRAINT amount_representable CHECK (VALUE BETWEEN -9007199254740991 AND 9007199254740991);
CREATE DOMAIN ledger_sum AS bigint
  CONSTRAINT balance_representable CHECK (VALUE BETWEEN -9007199254740991 AND 9007199254740991);
CREATE DOMAIN ledger_held AS bigint
  CONSTRAINT balance_holds_representable CHECK (VALUE BETWEEN 0 AND 9007199254740991);
ALTER TABLE ledger_ledgerentry ALTER COLUMN amount TYPE ledger_amount;
ALTER TABLE ledger_ledgerhold ALTER COLUMN amount TYPE ledger_amount;
ALTER TABLE ledger_ledgerbalance ALTER COLUMN posted TYPE ledger_sum,
  ALTER COLUMN held_dr TYPE ledger_held, ALTER COLUMN held_cr TYPE ledger_held;
"""
AMOUNTS_UNDO = """
ALTER TABLE ledger_ledgerentry ALTER COLUMN amount TYPE bigint;
ALTER TABLE ledger_ledgerhold ALTER COLUMN amount TYPE bigint;
ALTER TABLE ledger_ledgerbalance ALTER COLUMN posted TYPE bigint,
  ALTER COLUMN held_dr TYPE bigint, ALTER COLUMN held_cr TYPE bigint;
DROP DOMAIN ledger_amount, ledger_sum, ledger_held;
"""

SOUND = """
CREATE FUNCTION ledger_require_sound_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.status <> 'posted' AND NEW.status <> 'pending' AND (NEW.status <> 'discarded' OR NEW.resolves_id IS NULL) THEN
    RAISE EXCEPTION 'a transaction is posted, pending, or discarded and names the pending one that it resolves'
      USING ERRCODE = '23514';
  ELSIF (NEW.adjusts_period_id IS NULL) <> (NEW.meant_at IS NULL) OR NEW.meant_at >= NEW.effective_at THEN
    RAISE EXCEPTION 'an adjustment names the closed period and the earlier instant that it was meant for'
      USING ERRCODE = '23514';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER guard_sound BEFORE INSERT ON ledger_ledgertransaction
  FOR EACH ROW EXECUTE FUNCTION ledger_require_sound_transaction();
ALTER TABLE ledger_ledgertransaction ENABLE ALWAYS TRIGGER guard_sound;
"""
SOUND_UNDO = """
DROP TRIGGER guard_sound ON ledger_ledgertransaction;
DROP FUNCTION ledger_require_sound_transaction;
"""

# After the row, since a trigger before it would lock the row once more; a column trigger fires only when
# a statement names the column, so postings do not pay for it.
FIXED = """
CREATE FUNCTION ledger_require_sound_stripe() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.stripe NOT BETWEEN 0 AND NEW.stripes - 1 OR NEW.floor IS NOT NULL AND NEW.stripes <> 1 THEN
    RAISE EXCEPTION 'a stripe is one of its account''s, and a floor needs a balance of one stripe' USING ERRCODE = '23514';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER guard_stripe AFTER INSERT ON ledger_ledgerbalance
  FOR EACH ROW EXECUTE FUNCTION ledger_require_sound_stripe();
CREATE TRIGGER guard_fixed AFTER DELETE OR UPDATE OF account_id, stripe, stripes, currency, floor ON ledger_ledgerbalance
  FOR EACH ROW EXECUTE FUNCTION commerce_append_only();
ALTER TABLE ledger_ledgerbalance ENABLE ALWAYS TRIGGER guard_stripe, ENABLE ALWAYS TRIGGER guard_fixed;
"""
FIXED_UNDO = """
DROP TRIGGER guard_fixed ON ledger_ledgerbalance;
DROP TRIGGER guard_stripe ON ledger_ledgerbalance;
DROP FUNCTION ledger_require_sound_stripe;
"""

# Room on the page lets an update stay beside its old version (HOT) and touch no index.
ROOM = """
ALTER TABLE ledger_ledgerbalance SET (fillfactor = 50);
ALTER TABLE ledger_ledgerday SET (fillfactor = 80);
"""
ROOM_UNDO = """
ALTER TABLE ledger_ledgerbalance RESET (fillfactor);
ALTER TABLE ledger_ledgerday RESET (fillfactor);
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial"), ("commerce", "0002_guards")]
    operations = [
        guards.append_only("ledger_ledgeraccount"),
        guards.append_only("ledger_ledgertransaction"),
        guards.append_only("ledger_ledgerentry"),
        guards.append_only("ledger_ledgerhold"),
        guards.append_only("ledger_ledgerseal"),
        guards.updatable_only("ledger_ledgerperiod", ["status"]),
        guards.state_guard(
            "ledger_ledgerperiod",
            "status",
            initial=["open"],
            pairs=[("open", "closing"), ("closing", "closed"), ("closed", "open")],
        ),
        guards.updatable_only("ledger_ledgerrelease", ["status", "transaction_id"]),
        guards.state_guard(
            "ledger_ledgerrelease",
            "status",
            initial=["scheduled"],
            pairs=[
                ("scheduled", "held"),
                ("held", "scheduled"),
                ("scheduled", "released"),
                ("scheduled", "cancelled"),
                ("held", "cancelled"),
            ],
        ),
        migrations.RunSQL(BALANCED, BALANCED_UNDO),
        migrations.RunSQL(AMOUNTS, AMOUNTS_UNDO),
        migrations.RunSQL(SOUND, SOUND_UNDO),
        migrations.RunSQL(FIXED, FIXED_UNDO),
        migrations.RunSQL(ROOM, ROOM_UNDO),
    ]

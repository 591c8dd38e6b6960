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

# A column trigger fires only when a statement names the column, so postings do not pay for it.
FLOOR = """
CREATE TRIGGER guard_floor BEFORE DELETE OR UPDATE OF account_id, stripe, floor ON ledger_ledgerbalance
  FOR EACH ROW EXECUTE FUNCTION commerce_append_only();
ALTER TABLE ledger_ledgerbalance ENABLE ALWAYS TRIGGER guard_floor;
"""
FLOOR_UNDO = "DROP TRIGGER guard_floor ON ledger_ledgerbalance"

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
        migrations.RunSQL(FLOOR, FLOOR_UNDO),
        migrations.RunSQL(ROOM, ROOM_UNDO),
    ]

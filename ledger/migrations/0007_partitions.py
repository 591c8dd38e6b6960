"""How the entries become monthly partitions, without copying a row, and stay ahead of the calendar.

`ledger_partition_entries` is the owner's: the table as it is becomes the first partition, and whoever
had a right to it has it to the whole. With the CHECK `entry_recorded_before` validated beforehand
(which no posting waits for) it takes a moment; without, it reads the table first.
`ledger_make_partitions` does nothing before that has happened.
"""

from django.db import migrations

PARTITION = """
CREATE FUNCTION ledger_partition_entries(p_bound timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  part constant text := 'ledger_ledgerentry_until_' || to_char(p_bound, 'YYYYMM');
  held record;
BEGIN
  IF (SELECT relkind FROM pg_class WHERE oid = 'ledger_ledgerentry'::regclass) = 'p' THEN
    RETURN false;
  END IF;
  IF p_bound <> date_trunc('month', p_bound) OR p_bound <= clock_timestamp() THEN
    RAISE EXCEPTION 'the first partition ends with a month to come, not at %', p_bound USING ERRCODE = '22023';
  END IF;
  LOCK TABLE ledger_ledgerentry IN ACCESS EXCLUSIVE MODE;
  EXECUTE format('ALTER TABLE ledger_ledgerentry RENAME TO %I', part);
  EXECUTE format('ALTER INDEX ledger_ledgerentry_pkey RENAME TO %I', part || '_pkey');
  EXECUTE format('ALTER INDEX ledger_ledgerentry_transaction_id RENAME TO %I', part || '_transaction');
  EXECUTE format('ALTER INDEX entry_by_effective_at RENAME TO %I', part || '_effective');
  EXECUTE format('ALTER INDEX entry_by_recording RENAME TO %I', part || '_recording');
  EXECUTE format('DROP TRIGGER guard_append_only ON %I', part);
  EXECUTE format('CREATE TABLE ledger_ledgerentry (LIKE %I) PARTITION BY RANGE (recorded_at)', part);
  ALTER TABLE ledger_ledgerentry ADD PRIMARY KEY (account_id, stripe, recorded_at, version);
  CREATE INDEX ledger_ledgerentry_transaction_id ON ledger_ledgerentry (transaction_id);
  CREATE INDEX entry_by_effective_at ON ledger_ledgerentry (account_id, effective_at, recorded_at);
  CREATE INDEX entry_by_recording ON ledger_ledgerentry USING brin (recorded_at);
  EXECUTE format('ALTER TABLE ledger_ledgerentry ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)', part, p_bound);
  EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS entry_recorded_before', part);
  CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE ON ledger_ledgerentry
    FOR EACH ROW EXECUTE FUNCTION commerce_append_only();
  CREATE TRIGGER guard_balanced AFTER INSERT ON ledger_ledgerentry
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_require_balance();
  ALTER TABLE ledger_ledgerentry ENABLE ALWAYS TRIGGER guard_append_only, ENABLE ALWAYS TRIGGER guard_balanced;
  EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER guard_append_only', part);
  FOR held IN SELECT g.privilege_type, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END AS grantee
                FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) g
               WHERE c.oid = part::regclass AND g.grantee <> c.relowner LOOP
    EXECUTE format('GRANT %s ON ledger_ledgerentry TO %s', held.privilege_type, held.grantee);
    EXECUTE format('REVOKE %s ON %I FROM %s', held.privilege_type, part, held.grantee);
  END LOOP;
  PERFORM ledger_make_partitions(p_bound + interval '2 months');
  RETURN true;
END $$;
"""

# Attaching a table that was made beside takes a lock that postings do not wait for.
MAKE = """
CREATE FUNCTION ledger_make_partitions(p_until timestamptz) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  month timestamptz;
  part text;
  made int := 0;
BEGIN
  IF (SELECT relkind FROM pg_class WHERE oid = 'ledger_ledgerentry'::regclass) <> 'p' THEN
    RETURN 0;
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('ledger_make_partitions'));
  SELECT max(to_date(right(c.relname, 6), 'YYYYMM')
             + CASE WHEN c.relname LIKE '%_until_%' THEN interval '0' ELSE interval '1 month' END)
    INTO month FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'ledger_ledgerentry'::regclass;
  WHILE month <= least(p_until, now() + interval '2 years') LOOP
    part := 'ledger_ledgerentry_' || to_char(month, 'YYYYMM');
    EXECUTE format('CREATE TABLE %I (LIKE ledger_ledgerentry INCLUDING ALL)', part);
    EXECUTE format('ALTER TABLE ledger_ledgerentry ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                   part, month, month + interval '1 month');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER guard_append_only', part);
    made := made + 1;
    month := month + interval '1 month';
  END LOOP;
  RETURN made;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0006_periods")]
    operations = [
        migrations.RunSQL(MAKE, "DROP FUNCTION ledger_make_partitions"),
        migrations.RunSQL(PARTITION, "DROP FUNCTION ledger_partition_entries"),
    ]

"""Months that nobody made in time are made later too, so that what lies in a default partition can leave it.

Every month from the oldest such row on, for both tables, without a gap: months leave and come back one after
the other. Never one that has been archived, and never more than two years back or ahead.
"""

from django.db import migrations

MAKE = """
CREATE OR REPLACE FUNCTION outbox_make_partitions(p_through date) RETURNS int LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET timezone = 'UTC' SET lock_timeout = '100ms' AS $$
DECLARE
  parent text;
  part text;
  month date;
  since timestamptz;
  made int := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('outbox_make_partitions'));
  SELECT greatest(max(horizon), date_trunc('month', now()) - interval '2 years') INTO since
    FROM (SELECT horizon FROM outbox_outboxarchive ORDER BY id DESC LIMIT 1) latest;
  SELECT date_trunc('month', least(now(),
           (SELECT min(recorded_at) FROM outbox_outboxevent_default WHERE recorded_at >= since),
           (SELECT min(failed_at) FROM outbox_outboxfailure_default WHERE failed_at >= since))) INTO month;
  WHILE month <= least(p_through, now() + interval '2 years') LOOP
    FOREACH parent IN ARRAY ARRAY['outbox_outboxevent', 'outbox_outboxfailure'] LOOP
      part := parent || '_' || to_char(month, 'YYYYMM');
      IF to_regclass(part) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent || '_default');
        PERFORM outbox_attach_partition(parent::regclass, part, month);
        made := made + 1;
      END IF;
    END LOOP;
    month := month + interval '1 month';
  END LOOP;
  RETURN made;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("outbox", "0005_months")]
    operations = [migrations.RunSQL(MAKE)]

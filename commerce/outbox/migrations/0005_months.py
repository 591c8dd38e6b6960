"""Events and failures are partitioned by the month in which they were recorded, and archived month by month.

Each partition keeps the unique keys that the table had. Across partitions the head's row lock counts an
aggregate's sequence, one database sequence gives every `id`, and an `event_id` carries its instant. What no
partition was made for goes to the default one, so that an append never fails.
"""

from django.db import migrations, models

from commerce import guards

# Rows that came before their partition are moved into it; nobody may remove them otherwise.
ATTACH = """
CREATE FUNCTION outbox_attach_partition(p_table regclass, p_part text, p_month date) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  start constant timestamptz := p_month::timestamptz;
  until constant timestamptz := p_month + interval '1 month';
  rest constant text := p_table || '_default';
  key constant text := CASE p_table::text WHEN 'outbox_outboxevent' THEN 'recorded_at' ELSE 'failed_at' END;
  guard name;
  early boolean;
BEGIN
  EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', rest);
  EXECUTE format('SELECT EXISTS (SELECT FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L)', rest, key, start, until)
    INTO early;
  IF early THEN
    EXECUTE format('INSERT INTO %5$I SELECT * FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L',
                   rest, key, start, until, p_part);
    EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', rest);
    EXECUTE format('DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L', rest, key, start, until);
    FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = rest::regclass LOOP
      EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', rest, guard);
    END LOOP;
  END IF;
  EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', p_table, p_part, start, until);
END $$;
"""

# Short waits: whoever asks for the default partition's lock has everybody queue behind.
MAKE = """
CREATE FUNCTION outbox_make_partitions(p_through date) RETURNS int LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET timezone = 'UTC' SET lock_timeout = '100ms' AS $$
DECLARE
  parent text;
  part text;
  month date;
  made int := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('outbox_make_partitions'));
  FOREACH parent IN ARRAY ARRAY['outbox_outboxevent', 'outbox_outboxfailure'] LOOP
    SELECT COALESCE(max(to_date(right(c.relname, 6), 'YYYYMM')) + interval '1 month', date_trunc('month', now()))
      INTO month FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = parent::regclass AND c.relname ~ '_[0-9]{6}$';
    WHILE month <= least(p_through, now() + interval '2 years') LOOP
      part := parent || '_' || to_char(month, 'YYYYMM');
      EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent || '_default');
      PERFORM outbox_attach_partition(parent::regclass, part, month);
      made := made + 1;
      month := month + interval '1 month';
    END LOOP;
  END LOOP;
  RETURN made;
END $$;
"""

# Triggers come last: copied rows are no news. Indexes keep the names that the models know; what the partitions
# have already becomes part of them. Rights move with the rows, so that nobody has to remember them.
CONVERT = """
SET LOCAL statement_timeout = 0;
SET LOCAL timezone = 'UTC';
CREATE FUNCTION pg_temp.convert(p_table text, p_key text) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  was constant text := p_table || '_before';
  rest constant text := p_table || '_default';
  counter constant text := p_table || '_id_seq';
  triggers text[];
  indexes text[];
  definition text;
  next_id bigint;
  part text;
  month date;
  held record;
BEGIN
  EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', p_table);
  SELECT array_agg(pg_get_triggerdef(oid)) INTO triggers FROM pg_trigger
   WHERE tgrelid = p_table::regclass AND NOT tgisinternal AND tgname <> 'guard_updatable_only';
  SELECT array_agg(pg_get_indexdef(indexrelid)) INTO indexes FROM pg_index
   WHERE indrelid = p_table::regclass AND NOT indisunique;
  EXECUTE format('SELECT last_value + is_called::int FROM %s', pg_get_serial_sequence(p_table, 'id')) INTO next_id;
  EXECUTE format('ALTER TABLE %I RENAME TO %I', p_table, was);
  EXECUTE format('ALTER TABLE %I ALTER id DROP IDENTITY', was);
  EXECUTE format('CREATE SEQUENCE %I START %s', counter, next_id);
  EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', rest, was);
  EXECUTE format('ALTER TABLE %I ALTER id SET DEFAULT nextval(%L)', rest, counter);
  EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (%I)',
                 p_table, rest, p_key);
  EXECUTE format('ALTER SEQUENCE %I OWNED BY %I.id', counter, p_table);
  EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I DEFAULT', p_table, rest);
  FOR month IN EXECUTE format(
    'SELECT generate_series(date_trunc(''month'', min(%I)), now(), ''1 month'')::date FROM %I', p_key, was)
  LOOP
    part := p_table || '_' || to_char(month, 'YYYYMM');
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, rest);
    PERFORM outbox_attach_partition(p_table::regclass, part, month);
  END LOOP;
  EXECUTE format('INSERT INTO %I SELECT * FROM %I ORDER BY id', p_table, was);
  FOR held IN SELECT g.privilege_type, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END AS grantee
                FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) g
               WHERE c.oid = was::regclass AND g.grantee <> c.relowner LOOP
    EXECUTE format('GRANT %s ON %I TO %s', held.privilege_type, p_table, held.grantee);
    IF held.privilege_type = 'INSERT' THEN
      EXECUTE format('GRANT USAGE ON SEQUENCE %I TO %s', counter, held.grantee);
    END IF;
  END LOOP;
  EXECUTE format('DROP TABLE %I', was);
  FOREACH definition IN ARRAY indexes || triggers LOOP
    EXECUTE definition;
  END LOOP;
END $$;
SELECT pg_temp.convert('outbox_outboxevent', 'recorded_at');
SELECT pg_temp.convert('outbox_outboxfailure', 'failed_at');
"""

# Publishing changes nothing that is fixed, and so calls no function.
GUARDS = """
CREATE TRIGGER guard_updatable_only BEFORE UPDATE ON outbox_outboxevent FOR EACH ROW
  WHEN ((OLD.id, OLD.event_id, OLD.aggregate_type, OLD.aggregate_id, OLD.sequence, OLD.type, OLD.version,
         OLD.payload, OLD.headers, OLD.occurred_at, OLD.recorded_at)
    IS DISTINCT FROM
        (NEW.id, NEW.event_id, NEW.aggregate_type, NEW.aggregate_id, NEW.sequence, NEW.type, NEW.version,
         NEW.payload, NEW.headers, NEW.occurred_at, NEW.recorded_at))
  EXECUTE FUNCTION commerce_updatable_only('published_at');
CREATE TRIGGER guard_kept BEFORE DELETE ON outbox_outboxevent FOR EACH ROW EXECUTE FUNCTION commerce_append_only();
DO $$
DECLARE
  t record;
BEGIN
  FOR t IN SELECT tgrelid::regclass AS of, tgname AS name FROM pg_trigger
            WHERE tgrelid IN ('outbox_outboxevent'::regclass, 'outbox_outboxfailure'::regclass) AND NOT tgisinternal LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.of, t.name);
  END LOOP;
END $$;
SELECT outbox_make_partitions((now() + interval '3 months')::date);
"""


class Migration(migrations.Migration):
    dependencies = [("outbox", "0004_skips")]
    operations = [
        migrations.CreateModel(
            name="OutboxArchive",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("month", models.DateField(help_text="Of recording: its first day.")),
                (
                    "step",
                    models.CharField(
                        choices=[("removed", "Removed"), ("restored", "Restored")], max_length=10
                    ),
                ),
                (
                    "horizon",
                    models.DateTimeField(help_text="From here on, nothing recorded before it is present."),
                ),
                ("events", models.BigIntegerField()),
                ("first_id", models.BigIntegerField(null=True)),
                ("last_id", models.BigIntegerField(null=True)),
                (
                    "events_sha256",
                    models.CharField(help_text="Of the file's content, uncompressed.", max_length=64),
                ),
                ("failures", models.BigIntegerField()),
                ("failures_sha256", models.CharField(max_length=64)),
                ("noted_at", models.DateTimeField()),
                ("actor", models.CharField(max_length=120)),
            ],
            options={
                "verbose_name": "archived month",
                "verbose_name_plural": "archived months",
                "default_permissions": ("view",),
            },
        ),
        guards.append_only("outbox_outboxarchive"),
        migrations.RunSQL([ATTACH, MAKE, CONVERT, GUARDS]),
    ]

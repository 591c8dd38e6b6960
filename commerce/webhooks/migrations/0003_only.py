"""A copy of an event that is meant for some subscribers only makes webhooks if they are among them."""

from django.db import migrations

COLLECT = """
CREATE OR REPLACE FUNCTION webhooks_collect() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT FROM webhooks_webhookendpoint
     WHERE event_types && ARRAY[NEW.type, split_part(NEW.type, '.', 1) || '.*', '*']::text[]
       AND status <> 'deleted' AND (status = 'enabled' OR collects_until > now())
  ) AND (NOT NEW.headers ? 'only' OR NEW.headers -> 'only' ? 'webhooks') THEN
    INSERT INTO webhooks_pendingevent (event_id, due_at, attempts, last_error)
    VALUES (NEW.event_id, now(), 0, '');
  END IF;
  RETURN NULL;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0002_guards")]
    operations = [migrations.RunSQL(COLLECT, migrations.RunSQL.noop)]

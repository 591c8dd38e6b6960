"""Guards of states and logs, and the trigger that collects the events somebody wants to hear of.

The trigger runs in the transaction of the event, so that none is lost and none is told of that did
not happen. Where nobody subscribes it is one look into an index.
"""

from django.db import migrations

from commerce import guards

COLLECT = """
CREATE FUNCTION webhooks_collect() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT FROM webhooks_webhookendpoint
     WHERE event_types && ARRAY[NEW.type, split_part(NEW.type, '.', 1) || '.*', '*']::text[]
       AND status <> 'deleted' AND (status = 'enabled' OR collects_until > now())
  ) THEN
    INSERT INTO webhooks_pendingevent (event_id, due_at, attempts, last_error)
    VALUES (NEW.event_id, now(), 0, '');
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER collect_for_webhooks AFTER INSERT ON outbox_outboxevent
  FOR EACH ROW EXECUTE FUNCTION webhooks_collect();
ALTER TABLE outbox_outboxevent ENABLE ALWAYS TRIGGER collect_for_webhooks;
"""
FORGET = """
DROP TRIGGER IF EXISTS collect_for_webhooks ON outbox_outboxevent;
DROP FUNCTION webhooks_collect;
"""


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0001_initial"), ("commerce", "0002_guards"), ("outbox", "0002_guards")]
    operations = [
        guards.append_only("webhooks_webhookattempt"),
        guards.state_guard(
            "webhooks_webhookendpoint",
            "status",
            initial=["enabled"],
            pairs=[
                ("enabled", "disabled"),
                ("disabled", "enabled"),
                ("enabled", "deleted"),
                ("disabled", "deleted"),
            ],
        ),
        migrations.RunSQL(COLLECT, FORGET),
    ]

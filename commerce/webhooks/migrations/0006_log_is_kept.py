"""The log of attempts is never changed, and removed with its messages only when it is over a month old."""

from django.db import migrations

from commerce import guards

KEEP = """
CREATE FUNCTION webhooks_keep_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' OR OLD.at > now() - interval '30 days' THEN
    RAISE EXCEPTION 'rows of % are never changed, nor removed for 30 days', TG_TABLE_NAME
      USING ERRCODE = '23001';
  END IF;
  RETURN OLD;
END $$;
DROP TRIGGER guard_append_only ON webhooks_webhookattempt;
CREATE TRIGGER guard_kept BEFORE UPDATE OR DELETE ON webhooks_webhookattempt
  FOR EACH ROW EXECUTE FUNCTION webhooks_keep_log();
ALTER TABLE webhooks_webhookattempt ENABLE ALWAYS TRIGGER guard_kept;
"""
FORGET = "DROP TRIGGER guard_kept ON webhooks_webhookattempt; DROP FUNCTION webhooks_keep_log();"


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0005_resend")]
    operations = [migrations.RunSQL(KEEP, [FORGET, guards.append_only("webhooks_webhookattempt").sql])]

"""The platform's terms: a table of versions that follow each other without a gap, each agreed by two."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import F, Q

import commerce.ids
from commerce import guards

# The unique version decides between two that are written at once.
FOLLOWS = """
CREATE FUNCTION contracts_require_next_terms() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  latest contracts_platformterms;
BEGIN
  SELECT * INTO latest FROM contracts_platformterms ORDER BY version DESC LIMIT 1;
  IF NEW.version <> COALESCE(latest.version, 0) + 1 OR NEW.prev_hash <> COALESCE(latest.hash, '')
     OR NEW.effective_at <= latest.effective_at THEN
    RAISE EXCEPTION 'version % of the platform''s terms does not follow version %', NEW.version, latest.version
      USING ERRCODE = '23514';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER guard_follows BEFORE INSERT ON contracts_platformterms
  FOR EACH ROW EXECUTE FUNCTION contracts_require_next_terms();
ALTER TABLE contracts_platformterms ENABLE ALWAYS TRIGGER guard_follows;
"""
FOLLOWS_UNDO = """
DROP TRIGGER guard_follows ON contracts_platformterms;
DROP FUNCTION contracts_require_next_terms;
"""


class Migration(migrations.Migration):
    dependencies = [("contracts", "0004_partner"), ("console", "0003_approvals"), ("commerce", "0002_guards")]
    operations = [
        migrations.CreateModel(
            name="PlatformTerms",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=commerce.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("version", models.PositiveIntegerField(unique=True)),
                (
                    "effective_at",
                    models.DateTimeField(
                        help_text="Contracts created from this instant on get these values.", unique=True
                    ),
                ),
                ("sections", models.JSONField(help_text="Section → field → value.")),
                ("reason", models.CharField(max_length=500)),
                ("made_by", models.CharField(help_text="Who asked for it.", max_length=120)),
                (
                    "approved_by",
                    models.CharField(blank=True, default="", help_text="Who agreed.", max_length=120),
                ),
                ("recorded_at", models.DateTimeField(auto_now_add=True)),
                ("prev_hash", models.CharField(blank=True, default="", max_length=64)),
                ("hash", models.CharField(max_length=64)),
                (
                    "approval",
                    models.OneToOneField(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="console.approval",
                    ),
                ),
            ],
            options={
                "verbose_name": "platform terms",
                "verbose_name_plural": "platform terms",
                "ordering": ("-id",),
                "permissions": (
                    ("request_platformterms", "Can ask for other platform terms"),
                    ("approve_platformterms", "Can agree to other platform terms"),
                ),
                "constraints": [
                    models.CheckConstraint(
                        condition=Q(version=1, approval__isnull=True, approved_by="")
                        | (
                            Q(version__gt=1, approval__isnull=False)
                            & ~Q(approved_by="")
                            & ~Q(approved_by=F("made_by"))
                        ),
                        name="platform_terms_by_two",
                    )
                ],
            },
        ),
        guards.append_only("contracts_platformterms"),
        migrations.RunSQL(FOLLOWS, FOLLOWS_UNDO),
    ]

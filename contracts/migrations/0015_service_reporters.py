"""An event's id is its reporter's own, and a unit says whether it serves.

Units that were folded before are folded anew by the clock, which says it of them.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("contracts", "0014_service_history")]
    operations = [
        migrations.RemoveConstraint("serviceevent", "service_event_once"),
        migrations.AddConstraint(
            "serviceevent",
            models.UniqueConstraint(
                fields=("unit_id", "source", "source_event_id", "reporter"),
                name="service_event_once",
                nulls_distinct=False,
            ),
        ),
        migrations.AddField(
            "unitstatus",
            "serving",
            models.BooleanField(
                default=False,
                help_text="It has begun its service and not ended it, whatever failed in between.",
            ),
        ),
        migrations.RunSQL(
            "UPDATE contracts_unitstatus SET next_due_at = projected_at "
            " WHERE state NOT IN ('not_started', 'deprovisioning', 'released')",
            migrations.RunSQL.noop,
        ),
    ]

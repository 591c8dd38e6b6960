"""When to ask again about money that may be pulled back; what came in before is looked at soon."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_guards")]
    operations = [
        migrations.AddField(
            "payin",
            "next_look_at",
            models.DateTimeField(
                null=True, help_text="When to ask the bank whether the money was pulled back. Business time."
            ),
        ),
        migrations.AddIndex(
            "payin",
            models.Index(
                fields=["next_look_at"],
                name="pay_in_to_look_at",
                condition=models.Q(status="completed", next_look_at__isnull=False),
            ),
        ),
        migrations.RunSQL(
            "UPDATE billing_payin SET next_look_at = completed_at WHERE status = 'completed'",
            migrations.RunSQL.noop,
        ),
    ]

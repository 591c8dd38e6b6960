"""What is parked is counted lane by lane."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("outbox", "0006_strays")]
    operations = [
        migrations.AddIndex(
            model_name="outboxstream",
            index=models.Index(
                fields=["lane"], name="stream_parked_in", condition=models.Q(parked_at__isnull=False)
            ),
        )
    ]

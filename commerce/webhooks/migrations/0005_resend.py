"""What is sent again is more than one request moves: it is remembered until the rest has followed."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0004_subscriptions")]

    operations = [
        migrations.AddField(
            model_name="webhookhealth",
            name="resend_before",
            field=models.DateTimeField(help_text="as far as it had failed for good by then.", null=True),
        ),
        migrations.AddField(
            model_name="webhookhealth",
            name="resend_since",
            field=models.DateTimeField(help_text="What was made since then is to be sent again,", null=True),
        ),
    ]

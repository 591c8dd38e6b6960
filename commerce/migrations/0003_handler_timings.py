"""How long handlers take and how they end."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("commerce", "0002_guards")]

    operations = [
        migrations.CreateModel(
            name="HandlerTiming",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("group", models.CharField(max_length=60)),
                ("type", models.CharField(max_length=80)),
                (
                    "error",
                    models.CharField(
                        help_text="The class of what it raised; empty when it succeeded.", max_length=80
                    ),
                ),
                ("up_to", models.FloatField(help_text="Seconds; Infinity for the last bar.")),
                ("count", models.BigIntegerField()),
                ("seconds", models.FloatField(help_text="Of all its calls together.")),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("group", "type", "error", "up_to"), name="handler_timing_once"
                    )
                ]
            },
        )
    ]

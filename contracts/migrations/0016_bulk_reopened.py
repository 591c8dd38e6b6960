"""A plan to which nobody agreed is ready again."""

from django.db import migrations

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("contracts", "0015_service_reporters")]
    operations = [
        guards.state_guard(
            "contracts_bulkplan",
            "status",
            initial=["previewing"],
            pairs=[
                ("previewing", "ready"),
                ("ready", "needs_approval"),
                ("ready", "running"),
                ("needs_approval", "ready"),
                ("needs_approval", "running"),
                ("running", "completed"),
                ("previewing", "cancelled"),
                ("ready", "cancelled"),
                ("needs_approval", "cancelled"),
                ("running", "cancelled"),
            ],
        )
    ]

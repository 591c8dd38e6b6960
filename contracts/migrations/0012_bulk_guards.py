from django.db import migrations

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("contracts", "0011_bulk")]

    operations = [
        guards.updatable_only(
            "contracts_bulkplan",
            ["status", "ready_at", "confirmed_at", "finished_at", "approval_id", "acts_as_id", "totals"],
        ),
        guards.state_guard(
            "contracts_bulkplan",
            "status",
            initial=["previewing"],
            pairs=[
                ("previewing", "ready"),
                ("ready", "needs_approval"),
                ("ready", "running"),
                ("needs_approval", "running"),
                ("running", "completed"),
                ("previewing", "cancelled"),
                ("ready", "cancelled"),
                ("needs_approval", "cancelled"),
                ("running", "cancelled"),
            ],
        ),
        guards.updatable_only(
            "contracts_bulkplanrow",
            [
                "outcome",
                "detail",
                "version",
                "before_minor",
                "after_minor",
                "needs_approval",
                "seq",
                "done_at",
            ],
        ),
    ]

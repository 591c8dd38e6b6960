"""The organization that is us, and the state changes the two machines allow."""

from typing import Any

from django.db import migrations

from commerce import guards
from commerce.ids import uuid7


def create_platform(apps: Any, schema_editor: Any) -> None:
    apps.get_model("parties", "Organization").objects.create(
        id=uuid7(), slug="platform", name="Platform", roles=["platform"], onboarding_status="active"
    )


class Migration(migrations.Migration):
    dependencies = [("parties", "0001_initial"), ("commerce", "0002_guards")]
    operations = [
        migrations.RunPython(create_platform, migrations.RunPython.noop),
        guards.state_guard(
            "parties_organization",
            "onboarding_status",
            initial=["registered"],
            pairs=[
                ("registered", "verifying"),
                ("registered", "active"),
                ("registered", "rejected"),
                ("verifying", "active"),
                ("verifying", "rejected"),
                ("active", "suspended"),
                ("suspended", "active"),
            ],
        ),
        guards.state_guard(
            "parties_providerreference",
            "status",
            initial=["requested"],
            pairs=[("requested", "active"), ("requested", "failed"), ("failed", "active")],
        ),
    ]

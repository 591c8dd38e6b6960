"""The trigger functions of the guards, and the guard of the transition log."""

from django.db import migrations

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("commerce", "0001_initial")]
    operations = [guards.functions(), guards.append_only("commerce_transitionlog")]

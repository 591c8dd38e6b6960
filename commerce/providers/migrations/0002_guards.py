"""What was delivered is a fact."""

from django.db import migrations

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("providers", "0001_initial"), ("commerce", "0002_guards")]
    operations = [guards.append_only("providers_providerevent")]

"""Batches and approvals in the log, and the transitions of the status that a correction takes back."""

import django.db.models.functions.text
from django.db import migrations, models

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("contracts", "0007_service")]

    operations = [
        migrations.AlterModelOptions(
            name="contract",
            options={
                "ordering": ("-id",),
                "permissions": (
                    ("edit_contract", "Can create contracts and change their products"),
                    ("activate_contract", "Can submit, sign and activate contracts"),
                    ("suspend_contract", "Can suspend and resume contracts"),
                    ("terminate_contract", "Can terminate contracts"),
                    ("correct_contract", "Can correct what was recorded of a contract"),
                    ("backdate_contract", "Can record edits more than a month back"),
                    ("approve_edit", "Can agree to an edit that needs two people"),
                ),
            },
        ),
        migrations.AddField(
            model_name="contractedit", name="approval_id", field=models.UUIDField(blank=True, null=True)
        ),
        migrations.AddField(
            model_name="contractedit",
            name="batch_id",
            field=models.UUIDField(
                blank=True, help_text="Of edits recorded together, all or none.", null=True
            ),
        ),
        migrations.AddField(
            model_name="contractedit",
            name="batch_pos",
            field=models.PositiveSmallIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="contractedit",
            name="requested_by",
            field=models.CharField(
                blank=True, default="", help_text="Who asked for it, when two people agreed.", max_length=140
            ),
        ),
        migrations.AddConstraint(
            model_name="contractedit",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("batch_id__isnull", True), ("batch_pos__isnull", True)),
                    models.Q(("batch_id__isnull", False), ("batch_pos__lt", 50)),
                    _connector="OR",
                ),
                name="edit_batch_whole",
            ),
        ),
        migrations.AddConstraint(
            model_name="contractedit",
            constraint=models.UniqueConstraint(
                condition=models.Q(("batch_id__isnull", False)),
                fields=("batch_id", "batch_pos"),
                name="edit_batch_place_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="contractedit",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("approval_id__isnull", True), ("requested_by", "")),
                    models.Q(
                        ("approval_id__isnull", False),
                        models.Q(("requested_by", ""), _negated=True),
                        models.Q(
                            (
                                "requested_by",
                                django.db.models.functions.text.Concat(
                                    "actor_type",
                                    models.Value(":"),
                                    "actor_id",
                                    output_field=models.TextField(),
                                ),
                            ),
                            _negated=True,
                        ),
                    ),
                    _connector="OR",
                ),
                name="edit_approved_by_another",
            ),
        ),
        guards.state_guard(
            "contracts_contract",
            "status",
            initial=["draft"],
            pairs=[
                ("draft", "pending_signature"),
                ("pending_signature", "draft"),
                ("pending_signature", "pending_activation"),
                ("pending_activation", "pending_signature"),
                ("pending_activation", "active"),
                ("active", "pending_activation"),
                ("active", "suspended"),
                ("suspended", "active"),
                ("active", "expired"),
                ("suspended", "expired"),
                ("expired", "active"),
                ("active", "terminated"),
                ("suspended", "terminated"),
                ("terminated", "active"),
                ("draft", "cancelled"),
                ("pending_signature", "cancelled"),
                ("pending_activation", "cancelled"),
                ("cancelled", "draft"),
            ],
        ),
    ]

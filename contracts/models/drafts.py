"""What an operator collects for one contract before it is recorded together."""

from django.db import models

from commerce.ids import uuid7
from contracts.models.log import Contract


class EditDraft(models.Model):
    """Operations in the order in which they will be recorded; one draft per person and contract."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, models.CASCADE, related_name="drafts")
    owner = models.CharField(max_length=120, help_text="Who collects, as type:id.")
    operations = models.JSONField(default=list)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=["contract", "owner"], name="draft_once_per_person"),)

    def __str__(self) -> str:
        return f"{len(self.operations)} operations for {self.contract_id}"

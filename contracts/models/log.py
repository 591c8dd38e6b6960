"""Contracts and their edit log.

`ContractEdit` is the truth and append-only; `Contract` is its projection at `projected_at`, kept for
queries, joins and the status machine, and can be rebuilt from the log at any time.
"""

from collections import deque
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Concat
from django_fsm import FSMField, transition

from commerce.errors import StateConflict
from commerce.ids import uuid7
from commerce.parties.models import Organization
from contracts.rules.operations import NAMES
from contracts.rules.schema import instant
from contracts.rules.state import ContractState


class ContractQuerySet(models.QuerySet["Contract"]):
    def of(self, organization_id: UUID) -> "ContractQuerySet":
        """Contracts on which the organization is buyer or partner, is or was a seller, or had a party's
        place until another took it."""
        return self.filter(self._present(organization_id) | Q(former_party_ids__contains=[organization_id]))

    def of_now(self, organization_id: UUID) -> "ContractQuerySet":
        """The same without those on which another has taken its place."""
        return self.filter(self._present(organization_id))

    @staticmethod
    def _present(organization_id: UUID) -> Q:
        return (
            Q(buyer_id=organization_id)
            | Q(seller_ids__contains=[organization_id])
            | Q(partner_id=organization_id)
        )

    def due(self, at: datetime) -> "ContractQuerySet":
        """Contracts whose projection the clock has overtaken, longest overdue first."""
        return self.filter(next_due_at__lte=at).order_by("next_due_at")


class Contract(models.Model):
    """One buyer, one currency, lines of one or more sellers, under terms: the log's projection."""

    aggregate_type: ClassVar[str] = "contract"

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        PENDING_SIGNATURE = "pending_signature", "Pending signature"
        PENDING_ACTIVATION = "pending_activation", "Pending activation"
        ACTIVE = "active", "Active"
        SUSPENDED = "suspended", "Suspended"
        EXPIRED = "expired", "Expired"
        TERMINATED = "terminated", "Terminated"
        CANCELLED = "cancelled", "Cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    number = models.CharField(max_length=32, unique=True)
    status = FSMField(max_length=20, default=Status.DRAFT.value, choices=Status.choices)
    version = models.PositiveIntegerField(default=1, help_text="Number of edits in the log.")
    buyer = models.ForeignKey(Organization, models.PROTECT, related_name="contracts")
    seller_ids = ArrayField(models.UUIDField(), default=list)
    partner_id = models.UUIDField(null=True, blank=True)
    former_party_ids = ArrayField(models.UUIDField(), default=list, blank=True)
    currency = models.CharField(max_length=3)
    start_at = models.DateTimeField()
    end_at = models.DateTimeField(null=True, blank=True)
    anchor_day = models.PositiveSmallIntegerField()
    state = models.JSONField(default=dict)
    state_hash = models.CharField(max_length=64)
    fold_version = models.PositiveSmallIntegerField()
    projected_at = models.DateTimeField(help_text="Business instant whose state this row shows.")
    next_due_at = models.DateTimeField(
        null=True, blank=True, help_text="When the state changes next without a new edit."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ContractQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (models.CheckConstraint(condition=Q(version__gte=1), name="contract_version_positive"),)
        indexes = (
            models.Index(fields=["next_due_at"], name="contract_due", condition=Q(next_due_at__isnull=False)),
            models.Index(fields=["status", "-id"], name="contract_by_status"),
            models.Index(fields=["buyer", "-id"], name="contract_of_buyer"),
            GinIndex(fields=["seller_ids"], name="contract_of_seller"),
            GinIndex(fields=["former_party_ids"], name="contract_of_former_party"),
            models.Index(
                fields=["partner_id"], name="contract_of_partner", condition=Q(partner_id__isnull=False)
            ),
        )
        permissions = (
            ("edit_contract", "Can create contracts and change their products"),
            ("activate_contract", "Can submit, sign and activate contracts"),
            ("suspend_contract", "Can suspend and resume contracts"),
            ("terminate_contract", "Can terminate contracts"),
            ("correct_contract", "Can correct what was recorded of a contract"),
            ("backdate_contract", "Can record edits more than a month back"),
            ("approve_edit", "Can agree to an edit that needs two people"),
        )

    def __str__(self) -> str:
        return self.number

    @property
    def current(self) -> ContractState:
        """The projected state as a value."""
        return ContractState.from_json(self.state)

    def event_payload(self) -> dict[str, Any]:
        return {"contract_id": str(self.pk), "number": self.number, "version": self.version}

    # The status follows the folded state; `services.projection` walks these transitions to it.

    @transition(field=status, source="draft", target="pending_signature")
    def submit(self) -> None:
        """The lines are final and go out for signature."""

    @transition(field=status, source="pending_signature", target="draft")
    def withdraw(self) -> None:
        """Back to the drawing board; signatures are void."""

    @transition(field=status, source="pending_signature", target="pending_activation")
    def sign(self) -> None:
        """Every party has signed."""

    @transition(field=status, source="pending_activation", target="active")
    def go_live(self) -> None:
        """Service and billing begin."""

    @transition(field=status, source="active", target="suspended")
    def suspend(self) -> None:
        """The first hold on the whole contract."""

    @transition(field=status, source="suspended", target="active")
    def resume(self) -> None:
        """The last hold on the whole contract is lifted."""

    @transition(field=status, source=["active", "suspended"], target="expired")
    def expire(self) -> None:
        """The fixed term has run out."""

    @transition(field=status, source=["active", "suspended"], target="terminated")
    def terminate(self) -> None:
        """Ended before its term."""

    @transition(field=status, source=["draft", "pending_signature", "pending_activation"], target="cancelled")
    def cancel(self) -> None:
        """Ended before it ran."""

    # What a correction takes back; a renewal may also take up an expired contract again.

    @transition(field=status, source="pending_activation", target="pending_signature")
    def unsign(self) -> None:
        """The signing did not count."""

    @transition(field=status, source="active", target="pending_activation")
    def undo_live(self) -> None:
        """The going live did not count."""

    @transition(field=status, source=["expired", "terminated"], target="active")
    def reinstate(self) -> None:
        """Its end did not count, or it was renewed after it."""

    @transition(field=status, source="cancelled", target="draft")
    def reopen(self) -> None:
        """Its cancellation did not count."""

    @classmethod
    def path(cls, source: str, target: str) -> list[str]:
        """Names of the transitions that lead from one status to another, fewest first."""
        field: Any = cls._meta.get_field("status")
        steps = [(step.source, step.target, step.name) for step in field.get_all_transitions(cls)]
        queue = deque([(source, list[str]())])
        seen = {source}
        while queue:
            status, names = queue.popleft()
            if status == target:
                return names
            for before, after, name in steps:
                if before == status and after not in seen:
                    seen.add(after)
                    queue.append((after, [*names, name]))
        raise StateConflict(f"No transitions lead from {source} to {target}.")


class ContractEdit(models.Model):
    """One operation in a contract's log: what, when in business time, when recorded, by whom, why.

    `seq` has no gaps and is the contract's version. `hash` covers the row and the hash before it.
    """

    append_only = True

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="edits")
    seq = models.PositiveIntegerField()
    operation = models.CharField(max_length=24, choices=[(name, name.replace("_", " ")) for name in NAMES])
    op_version = models.PositiveSmallIntegerField(default=1)
    payload = models.JSONField()
    effective_at = models.DateTimeField(help_text="Business time from which it counts.")
    recorded_at = models.DateTimeField(help_text="Database time; increases strictly within a contract.")
    actor_type = models.CharField(max_length=20)
    actor_id = models.CharField(max_length=120)
    actor_label = models.CharField(max_length=200, blank=True, default="")
    reason = models.CharField(max_length=500, blank=True, default="")
    request_id = models.CharField(max_length=64, blank=True, default="")
    idempotency_key = models.CharField(max_length=320)
    request_hash = models.CharField(max_length=64)
    requested_by = models.CharField(
        max_length=140, blank=True, default="", help_text="Who asked for it, when two people agreed."
    )
    approval_id = models.UUIDField(null=True, blank=True)
    batch_id = models.UUIDField(null=True, blank=True, help_text="Of edits recorded together, all or none.")
    batch_pos = models.PositiveSmallIntegerField(null=True, blank=True)
    supersedes = models.PositiveIntegerField(null=True, blank=True, help_text="The edit that it corrects.")
    prev_hash = models.CharField(max_length=64, blank=True, default="")
    hash = models.CharField(max_length=64)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["contract", "seq"], name="edit_seq_once"),
            models.UniqueConstraint(fields=["contract", "idempotency_key"], name="edit_key_once"),
            models.UniqueConstraint(
                fields=["actor_type", "actor_id", "idempotency_key"],
                condition=Q(seq=1),
                name="create_key_once",
            ),
            models.CheckConstraint(condition=Q(seq__gte=1), name="edit_seq_positive"),
            models.CheckConstraint(condition=Q(operation__in=NAMES), name="edit_operation_known"),
            models.CheckConstraint(
                condition=Q(seq=1, operation="create") | (Q(seq__gt=1) & ~Q(operation="create")),
                name="edit_create_is_first",
            ),
            models.CheckConstraint(
                condition=Q(operation="correct", supersedes__isnull=False)
                | (~Q(operation="correct") & Q(supersedes__isnull=True)),
                name="edit_only_correct_supersedes",
            ),
            models.CheckConstraint(
                condition=Q(supersedes__isnull=True) | Q(supersedes__lt=models.F("seq")),
                name="edit_supersedes_earlier",
            ),
            models.CheckConstraint(
                condition=Q(batch_id__isnull=True, batch_pos__isnull=True)
                | Q(batch_id__isnull=False, batch_pos__lt=50),
                name="edit_batch_whole",
            ),
            models.UniqueConstraint(
                fields=["batch_id", "batch_pos"],
                condition=Q(batch_id__isnull=False),
                name="edit_batch_place_once",
            ),
            models.CheckConstraint(
                condition=Q(approval_id__isnull=True, requested_by="")
                | (
                    Q(approval_id__isnull=False)
                    & ~Q(requested_by="")
                    & ~Q(
                        requested_by=Concat(
                            "actor_type", Value(":"), "actor_id", output_field=models.TextField()
                        )
                    )
                ),
                name="edit_approved_by_another",
            ),
        )

    def __str__(self) -> str:
        return f"{self.operation.replace('_', ' ')} #{self.seq}"

    def fingerprint(self) -> dict[str, Any]:
        """What `hash` covers; of a batch and of an approval only what belongs to one."""
        more = {
            "requested_by": self.requested_by,
            "approval": str(self.approval_id or ""),
            "batch": f"{self.batch_id}/{self.batch_pos}" if self.batch_id else "",
        }
        return {name: value for name, value in more.items() if value} | {
            "contract": str(self.contract_id),
            "seq": self.seq,
            "operation": self.operation,
            "op_version": self.op_version,
            "payload": self.payload,
            "effective_at": instant(self.effective_at),
            "recorded_at": instant(self.recorded_at),
            "actor": f"{self.actor_type}:{self.actor_id}",
            "reason": self.reason,
            "idempotency_key": self.idempotency_key,
            "request_hash": self.request_hash,
            "supersedes": self.supersedes,
            "prev_hash": self.prev_hash,
        }

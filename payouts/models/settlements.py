"""A paid invoice's journey to its payees: a settlement, and a leg for each payee's share."""

from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7
from commerce.money import Money
from commerce.parties.models import Organization
from ledger.models import LedgerRelease


class Settlement(models.Model):
    """The journey of one paid invoice to its payees."""

    aggregate_type = "settlement"
    updatable_only = ("status",)

    class Status(models.TextChoices):
        PLANNED = "planned"
        DISBURSING = "disbursing"
        SEASONING = "seasoning"
        RELEASED = "released"
        COMPLETED = "completed"
        HELD = "held"
        REVERSED = "reversed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    status = FSMField(default=Status.PLANNED, choices=Status.choices)
    invoice_id = models.UUIDField(unique=True)
    invoice_number = models.CharField(max_length=64, db_index=True)
    contract_id = models.UUIDField(db_index=True)
    contract_number = models.CharField(max_length=64, db_index=True)
    buyer = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    currency = models.CharField(max_length=3)
    total_minor = models.BigIntegerField()
    transaction_id = models.UUIDField(help_text="The ledger transaction that collected and split the money.")
    paid_at = models.DateTimeField(help_text="Business time.")
    seasoning_days = models.PositiveSmallIntegerField()
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.CheckConstraint(condition=Q(total_minor__gt=0), name="settlement_total_positive"),
        )
        indexes = (
            models.Index(
                fields=["-id"], name="settlement_open", condition=~Q(status__in=["completed", "reversed"])
            ),
        )

    def __str__(self) -> str:
        return f"settlement of {self.invoice_number}"

    @property
    def total(self) -> Money:
        return Money(self.total_minor, self.currency)

    def event_payload(self) -> dict[str, Any]:
        return {
            "settlement_id": str(self.pk),
            "invoice_id": str(self.invoice_id),
            "invoice_number": self.invoice_number,
            "contract_id": str(self.contract_id),
            "contract_number": self.contract_number,
            "buyer_id": str(self.buyer_id),
            "currency": self.currency,
            "total_minor": self.total_minor,
            "status": self.status,
        }

    @transition(field=status, source="planned", target="disbursing", custom={"label": "Disburse"})
    def disburse(self) -> None:
        """Its legs are being funded."""

    @transition(field=status, source=["disbursing", "held"], target="seasoning", custom={"label": "Season"})
    def season(self) -> None:
        """Payees' money rests in Pay-In Holding."""

    @transition(
        field=status,
        source=["seasoning", "held", "completed"],
        target="released",
        custom={"event": "settlement.released", "label": "Release"},
    )
    def release(self) -> None:
        """Every payee's money is payable, or payable again after a return."""

    @transition(
        field=status,
        source=["disbursing", "seasoning", "held", "released"],
        target="completed",
        custom={"event": "settlement.completed", "label": "Complete"},
    )
    def complete(self) -> None:
        """Every payee has the money."""

    @transition(
        field=status,
        source=["seasoning", "released"],
        target="held",
        custom={"event": "settlement.held", "label": "Hold"},
    )
    def hold(self) -> None:
        """A leg is stopped until somebody decides."""

    @transition(
        field=status,
        source=["seasoning", "released", "held"],
        target="reversed",
        custom={"event": "settlement.reversed", "label": "Reverse"},
    )
    def reverse(self) -> None:
        """The money went back to the buyer."""


class SettlementLeg(models.Model):
    """One payee's share. Tax and fee stay with the platform and end as `released`."""

    aggregate_type = "settlement_leg"
    updatable_only = ("status", "release_id", "releasable_at", "released_at")

    class Kind(models.TextChoices):
        TAX = "tax"
        FEE = "fee"
        PARTNER = "partner"
        SELLER = "seller"

    class Status(models.TextChoices):
        PENDING = "pending"
        FUNDED = "funded"
        SEASONING = "seasoning"
        RELEASABLE = "releasable"
        RELEASED = "released"
        PAID_OUT = "paid_out"
        HELD = "held"
        REVERSED = "reversed"
        CLAWED_BACK = "clawed_back"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    settlement = models.ForeignKey(Settlement, on_delete=models.PROTECT, related_name="legs")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    payee = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    status = FSMField(default=Status.PENDING, choices=Status.choices)
    release = models.OneToOneField(LedgerRelease, on_delete=models.PROTECT, null=True, related_name="+")
    releasable_at = models.DateTimeField(null=True, help_text="Business time at which seasoning ends.")
    released_at = models.DateTimeField(null=True, help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["settlement", "kind", "payee"], name="leg_once"),
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="leg_amount_positive"),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "funded", "reversed"])
                | Q(kind__in=["tax", "fee"])
                | Q(release__isnull=False, releasable_at__isnull=False),
                name="leg_seasons_by_a_release",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["released", "paid_out", "clawed_back"])
                | Q(released_at__isnull=False),
                name="leg_released_has_instant",
            ),
        )
        indexes = (
            models.Index(
                fields=["payee", "currency", "id"],
                name="leg_unpaid",
                condition=Q(kind__in=["partner", "seller"], status__in=["seasoning", "released"]),
            ),
            models.Index(fields=["payee", "-id"], name="leg_by_payee"),
        )
        permissions = (("hold_settlementleg", "Can hold a leg back and let it go again"),)

    def __str__(self) -> str:
        return f"{self.kind} leg of {self.payee}"

    @property
    def amount(self) -> Money:
        return Money(self.amount_minor, self.currency)

    @property
    def source(self) -> str:
        """How the ledger names this leg."""
        return f"settlement_leg:{self.pk}"

    @property
    def is_for_payee(self) -> bool:
        return self.kind in (self.Kind.PARTNER, self.Kind.SELLER)

    def event_payload(self) -> dict[str, Any]:
        return {
            "settlement_leg_id": str(self.pk),
            "settlement_id": str(self.settlement_id),
            "kind": self.kind,
            "payee_id": str(self.payee_id),
            "currency": self.currency,
            "amount_minor": self.amount_minor,
            "status": self.status,
        }

    @transition(field=status, source="pending", target="funded", custom={"label": "Fund"})
    def fund(self) -> None:
        """The collection's posting holds its money."""

    @transition(field=status, source="funded", target="released", custom={"label": "Keep"})
    def keep(self, when: datetime) -> None:
        """Tax and fee are where they belong at once."""
        self.released_at = when

    @transition(field=status, source="funded", target="seasoning", custom={"label": "Season"})
    def season(self, release: LedgerRelease, releasable_at: datetime) -> None:
        self.release = release
        self.releasable_at = releasable_at

    @transition(field=status, source="seasoning", target="releasable", custom={"label": "Mature"})
    def mature(self) -> None:
        """Seasoning is over."""

    @transition(field=status, source="releasable", target="released", custom={"label": "Release"})
    def release_to_payee(self, when: datetime) -> None:
        self.released_at = when

    @transition(
        field=status,
        source="released",
        target="paid_out",
        custom={"event": "settlement_leg.paid_out", "label": "Pay out"},
    )
    def pay_out(self) -> None:
        """The bank has confirmed payouts for the whole of it."""

    @transition(
        field=status,
        source="paid_out",
        target="released",
        custom={"event": "settlement_leg.reopened", "label": "Reopen"},
    )
    def reopen(self) -> None:
        """A payout came back: the money is payable again."""

    @transition(
        field=status,
        source="seasoning",
        target="held",
        permission="payouts.hold_settlementleg",
        custom={"event": "settlement_leg.held", "label": "Hold"},
    )
    def hold(self) -> None:
        """Its release is stopped."""

    @transition(
        field=status,
        source="held",
        target="seasoning",
        permission="payouts.hold_settlementleg",
        custom={"event": "settlement_leg.lifted", "label": "Lift the hold"},
    )
    def lift(self) -> None:
        """Its release goes on, at the instant it had."""

    @transition(
        field=status,
        source=["pending", "funded", "seasoning", "held"],
        target="reversed",
        custom={"event": "settlement_leg.reversed", "label": "Reverse"},
    )
    def reverse(self) -> None:
        """The money went back to the buyer before it was released."""

    @transition(
        field=status,
        source=["released", "paid_out"],
        target="clawed_back",
        custom={"event": "settlement_leg.clawed_back", "label": "Claw back"},
    )
    def claw_back(self) -> None:
        """The payee owes it back after it was released."""

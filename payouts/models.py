"""What payees get: settlements split into legs, the payouts that pay them, and each payee's policy.

A leg is one payee's share of one paid invoice. A payout is one attempt to move money to one bank
account; `PayoutItem` says which legs it pays. What must be true of a payout in each state is a
CHECK, so that none can be under way without approval, key, or a next look at the bank.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models import F, Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7
from commerce.money import Money
from commerce.parties.models import Organization, ProviderReference
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


class PayeePolicy(models.Model):
    """How a payee is paid. Its row lock puts everything that pays one payee in a line."""

    class Mode(models.TextChoices):
        AUTOMATIC = "automatic", "automatic, on release"
        SCHEDULED = "scheduled", "on a schedule"
        ON_REQUEST = "on_request", "on request"

    class Cadence(models.TextChoices):
        WEEKLY = "weekly"
        MONTHLY = "monthly"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.OneToOneField(Organization, on_delete=models.PROTECT, related_name="payee_policy")
    mode = models.CharField(max_length=12, choices=Mode.choices, default=Mode.AUTOMATIC)
    cadence = models.CharField(max_length=8, choices=Cadence.choices, blank=True, default="")
    day = models.PositiveSmallIntegerField(
        null=True, help_text="Weekly: 1 Monday to 7 Sunday. Monthly: day of the month, clamped."
    )
    minimum_minor = models.BigIntegerField(default=0, help_text="Smaller sums wait, in each currency.")
    due_at = models.DateTimeField(null=True, help_text="Business time of the next run, if one is due.")
    blocked_account = models.ForeignKey(
        ProviderReference,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="Payouts to this bank account came back; none goes there until somebody unblocks it.",
    )
    blocked_reason = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        verbose_name_plural = "payee policies"
        constraints = (
            models.CheckConstraint(
                condition=Q(mode="scheduled", day__isnull=False, due_at__isnull=False) & ~Q(cadence="")
                | ~Q(mode="scheduled") & Q(cadence="", day__isnull=True),
                name="policy_schedule_complete",
            ),
            models.CheckConstraint(
                condition=Q(day__isnull=True)
                | Q(cadence="weekly", day__range=(1, 7))
                | Q(cadence="monthly", day__range=(1, 31)),
                name="policy_day_in_range",
            ),
            models.CheckConstraint(condition=Q(minimum_minor__gte=0), name="policy_minimum_not_negative"),
        )
        indexes = (models.Index(fields=["due_at"], name="policy_due", condition=Q(due_at__isnull=False)),)
        permissions = (
            ("operate_payeepolicy", "Can change how a payee is paid and unblock its bank account"),
        )

    def __str__(self) -> str:
        return f"{self.organization}: {self.get_mode_display()}"


MONEY_UNDER_WAY = ("requested", "needs_approval", "approved", "submitted", "in_transit", "unknown")
AT_THE_BANK = ("submitted", "in_transit", "unknown")
CAME_BACK = ("failed", "returned", "cancelled")


class PayoutQuerySet(models.QuerySet["Payout"]):
    def due_for_poll(self, now: datetime) -> "PayoutQuerySet":
        """Orders whose next look has come, in system time."""
        return self.filter(next_poll_at__lte=now).order_by("next_poll_at")


class Payout(models.Model):
    """One attempt to move money to one bank account. It is never sent again: a new row is made."""

    aggregate_type = "payout"
    updatable_only = (
        "status",
        "provider_id",
        "provider_status",
        "approval_reason",
        "approved_by",
        "approved_at",
        "submitted_at",
        "paid_at",
        "failed_at",
        "returned_at",
        "failure_code",
        "failure_reason",
        "return_id",
        "last_error",
        "polls",
        "watched_since",
        "next_poll_at",
    )

    class Status(models.TextChoices):
        REQUESTED = "requested"
        NEEDS_APPROVAL = "needs_approval"
        APPROVED = "approved"
        SUBMITTED = "submitted"
        IN_TRANSIT = "in_transit"
        PAID = "paid"
        FAILED = "failed"
        RETURNED = "returned"
        CANCELLED = "cancelled"
        UNKNOWN = "unknown"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    payee = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="payouts")
    account = models.ForeignKey(
        ProviderReference,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The bank account it goes to.",
    )
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    status = FSMField(default=Status.REQUESTED, choices=Status.choices)
    attempt = models.PositiveSmallIntegerField(
        default=1, help_text="Counts on when the payee's payout before this one failed or came back."
    )
    external_id = models.CharField(max_length=80, unique=True, help_text="Our reference at the bank.")
    idempotency_key = models.CharField(max_length=80, unique=True)
    provider_id = models.CharField(max_length=80, blank=True, default="")
    provider_status = models.CharField(max_length=40, blank=True, default="")
    approval_reason = models.CharField(
        max_length=200, blank=True, default="", help_text="Why two people must agree; empty: they need not."
    )
    requested_by = models.CharField(max_length=120)
    approved_by = models.CharField(max_length=120, blank=True, default="")
    failure_code = models.CharField(max_length=40, blank=True, default="")
    failure_reason = models.TextField(blank=True, default="")
    return_id = models.CharField(max_length=80, blank=True, default="")
    last_error = models.TextField(blank=True, default="")
    requested_at = models.DateTimeField(help_text="Business time, like the following.")
    approved_at = models.DateTimeField(null=True)
    submitted_at = models.DateTimeField(null=True)
    paid_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    returned_at = models.DateTimeField(null=True)
    polls = models.PositiveIntegerField(default=0, help_text="Looks at the bank so far.")
    watched_since = models.DateTimeField(null=True, help_text="System time of the last news.")
    next_poll_at = models.DateTimeField(null=True, help_text="System time of the next look at the bank.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    objects = PayoutQuerySet.as_manager()

    class Meta:
        constraints = (
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="payout_amount_positive"),
            models.CheckConstraint(
                condition=Q(approved_by="") | ~Q(approved_by=F("requested_by")),
                name="payout_maker_is_not_checker",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["requested", "needs_approval", "cancelled"])
                | Q(approved_at__isnull=False) & (Q(approval_reason="") | ~Q(approved_by="")),
                name="payout_moves_when_approved",
            ),
            models.CheckConstraint(
                condition=~Q(status="needs_approval") | ~Q(approval_reason=""),
                name="payout_approval_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["requested", "needs_approval", "approved", "cancelled"])
                | Q(submitted_at__isnull=False),
                name="payout_submitted_has_instant",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["in_transit", "paid", "returned"]) | ~Q(provider_id=""),
                name="payout_at_bank_has_id",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["paid", "returned"]) | Q(paid_at__isnull=False),
                name="payout_paid_has_instant",
            ),
            models.CheckConstraint(
                condition=~Q(status="failed") | Q(failed_at__isnull=False), name="payout_failed_has_instant"
            ),
            models.CheckConstraint(
                condition=~Q(status="returned") | Q(returned_at__isnull=False),
                name="payout_returned_has_instant",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=AT_THE_BANK) | Q(next_poll_at__isnull=False),
                name="payout_under_way_is_polled",
            ),
            models.UniqueConstraint(
                fields=["provider_id"], name="payout_provider_id_once", condition=~Q(provider_id="")
            ),
        )
        indexes = (
            models.Index(fields=["payee", "currency", "-id"], name="payout_by_payee"),
            models.Index(
                fields=["next_poll_at"], name="payout_poll", condition=Q(next_poll_at__isnull=False)
            ),
            models.Index(fields=["status", "-id"], name="payout_by_status"),
        )
        permissions = (
            ("request_payout", "Can request a payout"),
            ("approve_payout", "Can approve and reject payouts"),
            ("cancel_payout", "Can cancel payouts that have not been sent"),
            ("poll_payout", "Can ask the bank about payouts now"),
        )

    def __str__(self) -> str:
        return f"{self.amount} to {self.payee}"

    @property
    def amount(self) -> Money:
        return Money(self.amount_minor, self.currency)

    def event_payload(self) -> dict[str, Any]:
        return {
            "payout_id": str(self.pk),
            "payee_id": str(self.payee_id),
            "currency": self.currency,
            "amount_minor": self.amount_minor,
            "status": self.status,
            "attempt": self.attempt,
            "external_id": self.external_id,
            "provider_id": self.provider_id,
            "failure_code": self.failure_code,
        }

    @transition(
        field=status,
        source="requested",
        target="needs_approval",
        custom={"event": "payout.approval_requested", "label": "Ask for approval"},
    )
    def ask_approval(self, why: str) -> None:
        self.approval_reason = why

    @transition(
        field=status,
        source="requested",
        target="approved",
        custom={"event": "payout.approved", "label": "Approve by policy"},
    )
    def approve_by_policy(self, when: datetime) -> None:
        self.approved_at = when

    @transition(
        field=status,
        source="needs_approval",
        target="approved",
        permission="payouts.approve_payout",
        custom={"event": "payout.approved", "label": "Approve"},
    )
    def approve(self, by: str, when: datetime) -> None:
        self.approved_by = by
        self.approved_at = when

    @transition(
        field=status,
        source="needs_approval",
        target="cancelled",
        permission="payouts.approve_payout",
        custom={"event": "payout.cancelled", "label": "Reject"},
    )
    def reject(self) -> None:
        """A checker said no; the money is payable again."""

    @transition(
        field=status,
        source=["requested", "needs_approval", "approved"],
        target="cancelled",
        permission="payouts.cancel_payout",
        custom={"event": "payout.cancelled", "label": "Cancel"},
    )
    def cancel(self) -> None:
        """Withdrawn before it was sent; the money is payable again."""

    @transition(field=status, source="approved", target="submitted", custom={"label": "Submit"})
    def submit(self, when: datetime, now: datetime) -> None:
        """From here the bank may know it, whatever we hear."""
        self.submitted_at = when
        self._news(now)

    @transition(field=status, source="submitted", target="unknown", custom={"label": "Lose the answer"})
    def lose_answer(self, error: str, now: datetime) -> None:
        self.last_error = error
        self._news(now)

    @transition(
        field=status,
        source=["submitted", "unknown"],
        target="in_transit",
        custom={"event": "payout.in_transit", "label": "Accept"},
    )
    def accept(self, provider_id: str, now: datetime) -> None:
        self.provider_id = provider_id
        self.last_error = ""
        self._news(now)

    @transition(
        field=status, source="in_transit", target="paid", custom={"event": "payout.paid", "label": "Confirm"}
    )
    def confirm(self, when: datetime, now: datetime) -> None:
        self.paid_at = when
        self._news(now)

    @transition(
        field=status,
        source=["submitted", "unknown", "in_transit"],
        target="failed",
        custom={"event": "payout.failed", "label": "Fail"},
    )
    def fail(self, code: str, why: str, when: datetime) -> None:
        self.failure_code, self.failure_reason = code, why
        self.failed_at = when
        self.next_poll_at = None

    @transition(
        field=status, source="paid", target="returned", custom={"event": "payout.returned", "label": "Return"}
    )
    def bounce(self, code: str, why: str, return_id: str, when: datetime) -> None:
        self.failure_code, self.failure_reason = code, why
        self.return_id = return_id
        self.returned_at = when
        self.next_poll_at = None

    def _news(self, now: datetime) -> None:
        self.watched_since = self.next_poll_at = now


class PayoutItem(models.Model):
    """How much of a payout pays a leg. Items of payouts that came back count for nothing."""

    append_only = True

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    payout = models.ForeignKey(Payout, on_delete=models.PROTECT, related_name="items")
    leg = models.ForeignKey(SettlementLeg, on_delete=models.PROTECT, related_name="items")
    amount_minor = models.BigIntegerField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["payout", "leg"], name="payout_item_once"),
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="payout_item_positive"),
        )

    def __str__(self) -> str:
        return f"{Money(self.amount_minor, self.leg.currency)} of {self.leg}"


def new_references(payout_id: UUID) -> dict[str, str]:
    """Our names for a payout at the bank, fixed before anything is sent."""
    return {"external_id": f"payout_{payout_id}", "idempotency_key": f"payout:{payout_id}:create"}

"""A payout is one attempt to move money to one bank account; its items say which legs it pays.

What must be true of a payout in each state is a CHECK, so that none can be under way without
approval, key, or a next look at the bank.
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
from payouts.models.settlements import SettlementLeg

MONEY_UNDER_WAY = ("requested", "needs_approval", "approved", "submitted", "in_transit", "unknown")
AT_THE_BANK = ("submitted", "in_transit", "unknown")
# Where the bank need not know of it.
WITHOUT_ORDER = ("submitted", "unknown")
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
            ("request_giving_up", "Can ask that a payout without an order at the bank is given up"),
            ("approve_giving_up", "Can agree that a payout is given up"),
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
    def fail(self, code: str, why: str, when: datetime, watched_from: datetime | None = None) -> None:
        """With `watched_from`, in system time, the bank is asked on: an order may still turn up."""
        self.failure_code, self.failure_reason = code, why
        self.failed_at = when
        self.next_poll_at = None
        if watched_from:
            self._news(watched_from)

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

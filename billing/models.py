"""What the buyer owes: the billing side of a contract, usage, invoices, pay-ins, and what is set aside.

A provider's invoice is a fact about ours; our lines come from rating the contract. Amounts are
minor units of the contract's currency.
"""

from typing import Any

from django.db import models
from django.db.models import F, Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7
from commerce.money import MAX_MINOR, Money
from commerce.parties.models import Organization
from contracts.models import Contract


def minor_units(**options: Any) -> models.BigIntegerField:
    return models.BigIntegerField(default=0, **options)


class BillingStatus(models.TextChoices):
    NOT_BILLING = "not_billing"
    CURRENT = "current"
    INVOICED = "invoiced"
    IN_GRACE = "in_grace"
    PAST_DUE = "past_due"
    DELINQUENT = "delinquent"
    COLLECTIONS = "collections"
    DISPUTED = "disputed"
    WRITTEN_OFF = "written_off"
    SETTLED = "settled"


_UNPAID = [
    BillingStatus.INVOICED,
    BillingStatus.IN_GRACE,
    BillingStatus.PAST_DUE,
    BillingStatus.DELINQUENT,
    BillingStatus.COLLECTIONS,
]
_CHANGED = {"event": "billing_account.status_changed"}


class BillingAccount(models.Model):
    """One owner's billing side of a contract: its status, and what the buyer has set aside for it.

    A contract that changes hands has one for each owner: what the days before came to stays there.
    """

    aggregate_type = "billing_account"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="billing_accounts")
    owner_epoch = models.PositiveSmallIntegerField(default=1, help_text="Which owner of the contract's.")
    buyer = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="billing_accounts")
    turn = models.PositiveSmallIntegerField(default=1, help_text="Which of this buyer's times.")
    currency = models.CharField(max_length=3)
    billing_status = FSMField(default=BillingStatus.NOT_BILLING, choices=BillingStatus.choices)
    status_since = models.DateTimeField()
    next_check_at = models.DateTimeField(null=True, help_text="When the clock alone may change the status.")
    downpayment_wanted_minor = minor_units(help_text="Still to be set aside.")
    downpayment_minor = minor_units(help_text="Set aside and not yet drawn.")
    downpayment_drawn_minor = minor_units(help_text="Invoices have drawn so much of it.")
    committed_wanted_minor = minor_units(help_text="Still to be set aside.")
    committed_minor = minor_units(help_text="Set aside for the period and not yet drawn.")
    invoiced_through = models.DateTimeField(null=True, help_text="End of the last invoiced period.")

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(downpayment_wanted_minor__gte=0)
                & Q(downpayment_minor__gte=0)
                & Q(downpayment_drawn_minor__gte=0)
                & Q(committed_wanted_minor__gte=0)
                & Q(committed_minor__gte=0),
                name="set_aside_not_negative",
            ),
            models.UniqueConstraint(fields=["contract", "owner_epoch"], name="billing_account_of_owner_once"),
            models.UniqueConstraint(
                fields=["contract", "buyer", "turn"], name="billing_account_of_turn_once"
            ),
        )
        indexes = (
            models.Index(
                fields=["next_check_at"], name="billing_check_due", condition=Q(next_check_at__isnull=False)
            ),
            models.Index(fields=["billing_status", "-id"], name="billing_by_status"),
        )

    def __str__(self) -> str:
        return f"Billing of {self.contract.number}"

    def event_payload(self) -> dict[str, Any]:
        return {
            "billing_account_id": str(self.id),
            "contract_id": str(self.contract_id),
            "buyer_id": str(self.buyer_id),
            "billing_status": self.billing_status,
        }

    @transition(
        field=billing_status,
        source=[BillingStatus.CURRENT, BillingStatus.SETTLED],
        target=BillingStatus.NOT_BILLING,
        custom=_CHANGED,
    )
    def become_not_billing(self) -> None:
        """It goes on after all, and nothing was ever invoiced."""

    @transition(
        field=billing_status,
        source=[BillingStatus.NOT_BILLING, *_UNPAID, BillingStatus.DISPUTED, BillingStatus.SETTLED],
        target=BillingStatus.CURRENT,
        custom=_CHANGED,
    )
    def become_current(self) -> None:
        """Nothing is unpaid."""

    @transition(
        field=billing_status,
        source=[BillingStatus.NOT_BILLING, BillingStatus.CURRENT, *_UNPAID[1:], BillingStatus.SETTLED],
        target=BillingStatus.INVOICED,
        custom=_CHANGED,
    )
    def become_invoiced(self) -> None:
        """Something is unpaid and not due yet."""

    @transition(
        field=billing_status,
        source=[BillingStatus.INVOICED, *_UNPAID[2:]],
        target=BillingStatus.IN_GRACE,
        custom=_CHANGED,
    )
    def become_in_grace(self) -> None:
        """The due date of an unpaid invoice has passed, its grace days have not."""

    @transition(
        field=billing_status,
        source=[BillingStatus.IN_GRACE, *_UNPAID[3:]],
        target=BillingStatus.PAST_DUE,
        custom=_CHANGED,
    )
    def become_past_due(self) -> None:
        """Grace is over."""

    @transition(
        field=billing_status,
        source=[BillingStatus.PAST_DUE, BillingStatus.COLLECTIONS],
        target=BillingStatus.DELINQUENT,
        custom=_CHANGED,
    )
    def become_delinquent(self) -> None:
        """Ten days past due: service is suspended for non-payment."""

    @transition(
        field=billing_status,
        source=[BillingStatus.DELINQUENT],
        target=BillingStatus.COLLECTIONS,
        custom=_CHANGED,
    )
    def become_collections(self) -> None:
        """Three weeks past due: a person takes over."""

    @transition(
        field=billing_status,
        source=[BillingStatus.NOT_BILLING, BillingStatus.CURRENT, *_UNPAID],
        target=BillingStatus.SETTLED,
        custom=_CHANGED,
    )
    def become_settled(self) -> None:
        """The contract has ended, everything is invoiced and paid."""


class SubscriptionSync(models.Model):
    """How far OpenMeter has followed the contract of one owner. Identifiers are ours until it answers.

    A customer there never changes hands, so each owner has its own; `subscription_id` is the newest.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="subscription_syncs")
    owner_epoch = models.PositiveSmallIntegerField(default=1, help_text="Which owner of the contract's.")
    buyer = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    turn = models.PositiveSmallIntegerField(default=1, help_text="Which of this buyer's times.")
    customer_key = models.CharField(max_length=64, unique=True)
    customer_id = models.CharField(max_length=40, blank=True, default="")
    subscription_id = models.CharField(max_length=40, blank=True, default="", db_index=True)
    desired_version = models.PositiveIntegerField(default=0)
    applied_version = models.PositiveIntegerField(default=0)
    ended_at = models.DateTimeField(null=True, help_text="When the subscription was cancelled.")
    synced_at = models.DateTimeField(null=True)
    checked_at = models.DateTimeField(null=True, help_text="When what it bills was last compared.")
    drift = models.JSONField(default=list, blank=True, help_text="What differed then, and why.")

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(applied_version__lte=F("desired_version")), name="sync_not_ahead_of_the_contract"
            ),
            models.UniqueConstraint(fields=["contract", "owner_epoch"], name="sync_of_owner_once"),
            models.UniqueConstraint(fields=["contract", "buyer", "turn"], name="sync_of_turn_once"),
        )
        indexes = (models.Index(F("checked_at").asc(nulls_first=True), name="sync_by_check"),)
        permissions = (("request_sync", "Can have a subscription compared with its contract and synced"),)

    def __str__(self) -> str:
        return f"Subscription {self.subscription_id or 'not yet created'}"

    def event_payload(self) -> dict[str, Any]:
        return {"sync_id": str(self.id), "contract_id": str(self.contract_id)}

    @property
    def drifts(self) -> bool:
        """Whether something differed that nothing explains."""
        return any(not row["reasons"] for row in self.drift)


class SubscriptionChange(models.Model):
    """One edit that reached OpenMeter: what its lag explains is not a difference. Append-only."""

    append_only = True

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="subscription_changes")
    version = models.PositiveIntegerField()
    summary = models.CharField(max_length=200)
    effective_at = models.DateTimeField(help_text="When the contract says it took effect.")
    applied_at = models.DateTimeField(help_text="When OpenMeter took it over.")

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["contract", "version"], name="subscription_change_once"),
        )

    def __str__(self) -> str:
        return self.summary


class ServiceChange(models.Model):
    """So many units of a line in service from an instant on, and when OpenMeter had it. Append-only."""

    append_only = True

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="service_changes")
    line_id = models.UUIDField()
    quantity = models.PositiveIntegerField(help_text="Units in service from then on.")
    effective_at = models.DateTimeField(help_text="When it was so, as was reported.")
    applied_at = models.DateTimeField(help_text="When OpenMeter took it over.")

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["contract", "line_id", "effective_at", "quantity"], name="service_change_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.quantity} units in service"


class UsageBatch(models.Model):
    """Usage accepted in one request; forwarded to OpenMeter as one batch."""

    aggregate_type = "usage_batch"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="usage_batches")
    received_at = models.DateTimeField()
    forwarded_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"Usage received {self.received_at:%Y-%m-%d %H:%M}"


class UsageEvent(models.Model):
    """One metered quantity, once per (source, event id) as CloudEvents has it. Append-only."""

    append_only = True

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    batch = models.ForeignKey(UsageBatch, on_delete=models.PROTECT, related_name="events")
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="usage_events")
    line_id = models.UUIDField()
    source = models.CharField(max_length=200)
    event_id = models.CharField(max_length=200)
    meter = models.CharField(max_length=80)
    time = models.DateTimeField()
    quantity = models.DecimalField(max_digits=24, decimal_places=9)
    fingerprint = models.CharField(max_length=64)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["event_id", "source"], name="usage_event_once"),
            models.CheckConstraint(condition=Q(quantity__gt=0), name="usage_quantity_positive"),
        )
        indexes = (models.Index(fields=["contract", "line_id", "time"], name="usage_of_line"),)

    def __str__(self) -> str:
        return f"{self.quantity.normalize():f} of {self.meter}"


class NumberSeries(models.Model):
    """Gap-free document numbers: the row is locked by the transaction that uses the number."""

    name = models.CharField(max_length=40, primary_key=True)
    last = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} {self.last}"


class InvoiceStatus(models.TextChoices):
    DRAFT = "draft"
    ISSUED = "issued"
    PARTIALLY_PAID = "partially_paid"
    PAID = "paid"
    OVERDUE = "overdue"
    UNCOLLECTIBLE = "uncollectible"
    VOIDED = "voided"


OPEN_STATUSES = [InvoiceStatus.ISSUED, InvoiceStatus.PARTIALLY_PAID, InvoiceStatus.OVERDUE]


class Invoice(models.Model):
    """What a buyer owes for one period. Our lines and totals; the provider's word kept beside them."""

    aggregate_type = "invoice"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    number = models.CharField(  # noqa: DJ001 - unique where it is given
        max_length=32, null=True, unique=True, help_text="Given when verified."
    )
    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="invoices")
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="invoices")
    buyer = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="invoices")
    currency = models.CharField(max_length=3)
    status = FSMField(default=InvoiceStatus.DRAFT, choices=InvoiceStatus.choices)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    net_minor = minor_units()
    tax_minor = minor_units()
    total_minor = minor_units()
    paid_minor = minor_units()
    verified_at = models.DateTimeField(
        null=True, help_text="When it was found equal, or accepted by a person."
    )
    differences = models.JSONField(default=list, blank=True)
    issued_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(null=True)
    paid_at = models.DateTimeField(null=True)
    transaction_id = models.UUIDField(null=True, help_text="The posting that collected it.")
    provider = models.CharField(max_length=32, default="openmeter")
    provider_id = models.CharField(max_length=40)
    provider_status = models.CharField(max_length=64)
    provider_updated_at = models.DateTimeField()
    provider_net_minor = minor_units()
    provider_paid_at = models.DateTimeField(null=True, help_text="When the provider was told.")

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["provider_id", "provider"], name="provider_invoice_once"),
            models.CheckConstraint(
                condition=Q(period_start__lt=F("period_end")), name="invoice_period_order"
            ),
            models.CheckConstraint(
                condition=Q(total_minor=F("net_minor") + F("tax_minor")), name="invoice_total_is_net_plus_tax"
            ),
            models.CheckConstraint(
                condition=Q(paid_minor__gte=0) & Q(paid_minor__lte=F("total_minor")),
                name="invoice_paid_within_total",
            ),
            models.CheckConstraint(
                condition=~Q(status=InvoiceStatus.PAID)
                | (Q(paid_minor=F("total_minor")) & Q(paid_at__isnull=False)),
                name="paid_invoice_is_paid",
            ),
            models.CheckConstraint(
                condition=Q(status__in=[InvoiceStatus.DRAFT, InvoiceStatus.VOIDED])
                | (Q(number__isnull=False) & Q(verified_at__isnull=False) & Q(due_at__isnull=False)),
                name="issued_invoice_is_verified",
            ),
        )
        indexes = (
            models.Index(fields=["status", "-id"], name="invoice_by_status"),
            models.Index(fields=["buyer", "-id"], name="invoice_of_buyer"),
            models.Index(fields=["provider", "-provider_updated_at"], name="invoice_changed"),
        )
        permissions = (
            ("verify_invoice", "Can accept an invoice that differs from the provider's"),
            ("collect_invoice", "Can collect an unpaid invoice now"),
        )

    def __str__(self) -> str:
        return self.number or "Draft invoice"

    @property
    def total(self) -> Money:
        return Money(self.total_minor, self.currency)

    def event_payload(self) -> dict[str, Any]:
        return {
            "invoice_id": str(self.id),
            "number": self.number,
            "contract_id": str(self.contract_id),
            "buyer_id": str(self.buyer_id),
            "currency": self.currency,
            "total_minor": self.total_minor,
            "status": self.status,
        }

    @transition(
        field=status,
        source=InvoiceStatus.DRAFT,
        target=InvoiceStatus.ISSUED,
        custom={"event": "invoice.issued"},
    )
    def issue(self, *, issued_at: Any, due_at: Any) -> None:
        """The provider has taken our number over: the invoice is owed."""
        self.issued_at, self.due_at = issued_at, due_at

    @transition(
        field=status, source=OPEN_STATUSES, target=InvoiceStatus.PAID, custom={"event": "invoice.paid"}
    )
    def pay(self, *, paid_at: Any, transaction_id: Any) -> None:
        """Collected from the wallet in full."""
        self.paid_minor, self.paid_at, self.transaction_id = self.total_minor, paid_at, transaction_id

    @transition(
        field=status,
        source=[InvoiceStatus.ISSUED, InvoiceStatus.PARTIALLY_PAID],
        target=InvoiceStatus.OVERDUE,
        custom={"event": "invoice.overdue"},
    )
    def become_overdue(self) -> None:
        """Due and not paid."""

    @transition(
        field=status,
        source=[InvoiceStatus.DRAFT, *OPEN_STATUSES, InvoiceStatus.UNCOLLECTIBLE],
        target=InvoiceStatus.VOIDED,
        custom={"event": "invoice.voided"},
    )
    def void(self) -> None:
        """Withdrawn by the provider, or by us."""


class InvoiceLine(models.Model):
    """One rated line. Append-only once written; a draft's lines are written when it is verified."""

    append_only = True

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="lines")
    line_id = models.UUIDField()
    product = models.CharField(max_length=80)
    kind = models.CharField(max_length=16)
    seller = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    quantity = models.DecimalField(max_digits=24, decimal_places=9)
    rate = models.DecimalField(max_digits=28, decimal_places=12)
    start = models.DateTimeField()
    end = models.DateTimeField()
    net_minor = minor_units()
    tax_minor = minor_units()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["invoice", "line_id", "seller", "kind", "start"], name="invoice_line_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.product} {self.start:%Y-%m-%d} to {self.end:%Y-%m-%d}"


class PayInStatus(models.TextChoices):
    EXPECTED = "expected"
    PENDING = "pending"
    COMPLETED = "completed"
    RETURNED = "returned"
    REVERSED = "reversed"
    DISPUTED = "disputed"
    FAILED = "failed"


class PayIn(models.Model):
    """Money that entered, or is entering, a wallet. One row per incoming payment at the bank."""

    aggregate_type = "pay_in"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    buyer = models.ForeignKey(
        Organization,
        on_delete=models.PROTECT,
        null=True,
        related_name="pay_ins",
        help_text="Empty when the deposit could not be attributed.",
    )
    provider = models.CharField(max_length=32)
    provider_id = models.CharField(max_length=64)
    rail = models.CharField(max_length=32)
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    status = FSMField(default=PayInStatus.PENDING, choices=PayInStatus.choices)
    completed_at = models.DateTimeField(null=True)
    transaction_id = models.UUIDField(null=True, help_text="The posting that credited the wallet.")
    next_look_at = models.DateTimeField(
        null=True, help_text="When to ask the bank whether the money was pulled back. Business time."
    )

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["provider_id", "provider"], name="pay_in_once"),
            models.CheckConstraint(
                condition=Q(amount_minor__gt=0) & Q(amount_minor__lte=MAX_MINOR), name="pay_in_amount"
            ),
            models.CheckConstraint(
                condition=~Q(status=PayInStatus.COMPLETED) | Q(transaction_id__isnull=False),
                name="completed_pay_in_is_posted",
            ),
        )
        indexes = (
            models.Index(fields=["buyer", "-id"], name="pay_in_of_buyer"),
            models.Index(fields=["status", "-id"], name="pay_in_by_status"),
            models.Index(
                fields=["next_look_at"],
                name="pay_in_to_look_at",
                condition=Q(status="completed", next_look_at__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{Money(self.amount_minor, self.currency)} by {self.rail}"

    def event_payload(self) -> dict[str, Any]:
        return {
            "pay_in_id": str(self.id),
            "buyer_id": str(self.buyer_id) if self.buyer_id else None,
            "amount_minor": self.amount_minor,
            "currency": self.currency,
        }

    @transition(
        field=status,
        source=[PayInStatus.EXPECTED, PayInStatus.PENDING],
        target=PayInStatus.COMPLETED,
        custom={"event": "pay_in.completed"},
    )
    def complete(self, *, completed_at: Any, transaction_id: Any, next_look_at: Any) -> None:
        """The bank has the money and the wallet shows it."""
        self.completed_at, self.transaction_id = completed_at, transaction_id
        self.next_look_at = next_look_at

    @transition(
        field=status,
        source=[PayInStatus.EXPECTED, PayInStatus.PENDING, PayInStatus.COMPLETED],
        target=PayInStatus.RETURNED,
        custom={"event": "pay_in.returned"},
    )
    def give_back(self) -> None:
        """The money went back to the sender."""

    @transition(
        field=status,
        source=[PayInStatus.EXPECTED, PayInStatus.PENDING],
        target=PayInStatus.FAILED,
        custom={"event": "pay_in.failed"},
    )
    def fail(self) -> None:
        """The money never came."""

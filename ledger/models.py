"""The double-entry ledger: what was posted is never changed; corrections are new transactions.

Amounts are signed minor units, credit positive and debit negative. Rows are written only by the SQL
function `ledger_post`; `LedgerBalance` and `LedgerDay` are its running sums, kept in the same step.
A pending transaction sets money aside (`LedgerHold`); posting or discarding it is a new transaction
that `resolves` it, at most once.
"""

from typing import Any

from django.db import models
from django.db.models import F, Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7
from commerce.money import MAX_MINOR, Money
from ledger.rules.kinds import AccountClass, Side
from ledger.rules.kinds import Kind as Kind
from ledger.rules.recipes import RECIPES


def _choices(values: type[Side] | type[AccountClass]) -> list[tuple[str, str]]:
    return [(value.value, value.value.capitalize()) for value in values]


class LedgerAccount(models.Model):
    """One owner's money of one kind in one currency. Opened by the first posting."""

    append_only = True

    id = models.BigAutoField(primary_key=True)
    owner = models.ForeignKey("parties.Organization", on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=32, choices=[(kind.value, kind.label) for kind in Kind])
    currency = models.CharField(max_length=3)
    account_class = models.CharField(max_length=16, choices=_choices(AccountClass))
    normal = models.CharField(max_length=6, choices=_choices(Side))
    opened_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name, verbose_name_plural = "account", "accounts"
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=["owner", "kind", "currency"], name="account_once"),
            models.CheckConstraint(condition=Q(currency__regex="^[A-Z]{3}$"), name="account_currency_iso"),
        )
        indexes = (models.Index(fields=["kind", "currency"], name="account_by_kind"),)

    def __str__(self) -> str:
        return f"{self.owner} · {Kind(self.kind).label} · {self.currency}"

    def on_normal_side(self, signed: int) -> int:
        """A credit-positive amount as this account counts it."""
        return signed if self.normal == Side.CREDIT else -signed


class LedgerBalance(models.Model):
    """The running sums of an account; the only ledger row that is updated."""

    own_guards = ("guard_floor",)

    account = models.OneToOneField(
        LedgerAccount, on_delete=models.PROTECT, primary_key=True, related_name="balance"
    )
    posted = models.BigIntegerField(default=0, help_text="Sum of all entries.")
    held_dr = models.BigIntegerField(default=0, help_text="Debits that pending transactions set aside.")
    held_cr = models.BigIntegerField(default=0, help_text="Credits that pending transactions announce.")
    version = models.BigIntegerField(default=0, help_text="Number of entries.")
    floor = models.BigIntegerField(null=True, help_text="Posted less held debits never falls below it.")

    class Meta:
        verbose_name, verbose_name_plural = "balance", "balances"
        default_permissions = ("view",)
        constraints = (
            models.CheckConstraint(
                condition=Q(floor__isnull=True) | Q(posted__gte=F("floor") + F("held_dr")),
                name="balance_not_below_floor",
            ),
            models.CheckConstraint(
                condition=Q(held_dr__gte=0) & Q(held_cr__gte=0), name="balance_holds_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(posted__gte=-MAX_MINOR) & Q(posted__lte=MAX_MINOR), name="balance_representable"
            ),
        )

    def __str__(self) -> str:
        return f"{self.account}: {self.posted}"


class LedgerTransaction(models.Model):
    """One business fact. `key` makes it happen once; `effective_at` is business time."""

    append_only = True

    class Status(models.TextChoices):
        POSTED = "posted"
        PENDING = "pending"
        DISCARDED = "discarded"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    key = models.CharField(max_length=200, unique=True, help_text="provider:object:fact or source:step.")
    fingerprint = models.BinaryField(help_text="Hash of the content: the same key with another is refused.")
    status = models.CharField(max_length=10, choices=Status.choices)
    source = models.CharField(max_length=120, help_text="What caused it, as type:id.")
    recipe = models.CharField(max_length=60)
    description = models.CharField(max_length=300, blank=True)
    actor = models.CharField(max_length=120)
    effective_at = models.DateTimeField(help_text="Business time.")
    recorded_at = models.DateTimeField(help_text="System time.")
    reverses = models.OneToOneField("self", null=True, on_delete=models.PROTECT, related_name="reversed_by")
    resolves = models.OneToOneField(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="resolved_by",
        help_text="The pending transaction that this one posts or discards.",
    )

    class Meta:
        verbose_name, verbose_name_plural = "transaction", "transactions"
        default_permissions = ("view",)
        constraints = (
            models.CheckConstraint(
                condition=~Q(status="discarded") | Q(resolves__isnull=False),
                name="discarded_resolves_a_pending",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["posted", "pending", "discarded"]), name="transaction_status_known"
            ),
        )
        indexes = (models.Index(fields=["source", "-id"], name="transaction_by_source"),)

    def __str__(self) -> str:
        return f"{self.recipe_name}: {self.description or self.key}"

    @property
    def recipe_name(self) -> str:
        return self.recipe.replace("_", " ").capitalize()

    @property
    def explanation(self) -> str:
        return RECIPES.get(self.recipe, "")


class LedgerEntry(models.Model):
    """One leg of a posted transaction: the account's `version`-th movement and the balance after it."""

    append_only = True
    own_guards = ("guard_balanced",)

    pk = models.CompositePrimaryKey("account_id", "version")
    account = models.ForeignKey(
        LedgerAccount, on_delete=models.PROTECT, related_name="entries", db_index=False
    )
    version = models.BigIntegerField()
    transaction = models.ForeignKey(LedgerTransaction, on_delete=models.PROTECT, related_name="entries")
    amount = models.BigIntegerField(help_text="Minor units, credit positive, debit negative.")
    balance_after = models.BigIntegerField(help_text="Credit positive.")
    effective_at = models.DateTimeField()
    recorded_at = models.DateTimeField()

    class Meta:
        verbose_name, verbose_name_plural = "entry", "entries"
        default_permissions = ("view",)
        constraints = (models.CheckConstraint(condition=~Q(amount=0), name="entry_moves_something"),)
        indexes = (models.Index(fields=["account", "effective_at"], name="entry_by_effective_at"),)

    def __str__(self) -> str:
        return f"{self.account_id}#{self.version}: {self.amount}"


class LedgerHold(models.Model):
    """One leg of a pending transaction: set aside, not yet moved."""

    append_only = True
    own_guards = ("guard_balanced",)

    id = models.BigAutoField(primary_key=True)
    transaction = models.ForeignKey(LedgerTransaction, on_delete=models.PROTECT, related_name="holds")
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="holds")
    amount = models.BigIntegerField(help_text="Minor units, credit positive, debit negative.")

    class Meta:
        verbose_name, verbose_name_plural = "hold", "holds"
        default_permissions = ("view",)
        constraints = (models.CheckConstraint(condition=~Q(amount=0), name="hold_moves_something"),)

    def __str__(self) -> str:
        return f"{self.account_id}: {self.amount}"


class LedgerDay(models.Model):
    """What one UTC day moved on an account, by business time. A back-dated entry changes only its day."""

    pk = models.CompositePrimaryKey("account_id", "day")
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="days", db_index=False)
    day = models.DateField()
    amount = models.BigIntegerField(help_text="Credit positive.")

    class Meta:
        verbose_name, verbose_name_plural = "day", "days"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.account_id} {self.day}: {self.amount}"


class LedgerRelease(models.Model):
    """A payee's money that leaves Pay-In Holding for Payable when its seasoning ends."""

    aggregate_type = "ledger_release"
    updatable_only = ("status", "transaction_id")

    class Status(models.TextChoices):
        SCHEDULED = "scheduled"
        HELD = "held"
        RELEASED = "released"
        CANCELLED = "cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    key = models.CharField(max_length=200, unique=True)
    owner = models.ForeignKey("parties.Organization", on_delete=models.PROTECT, related_name="+")
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    source = models.CharField(max_length=120, db_index=True)
    due_at = models.DateTimeField(help_text="Business time from which the money may be paid out.")
    status = FSMField(default=Status.SCHEDULED, choices=Status.choices)
    transaction = models.OneToOneField(
        LedgerTransaction, null=True, on_delete=models.PROTECT, related_name="release"
    )
    scheduled_at = models.DateTimeField(help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name, verbose_name_plural = "release", "releases"
        default_permissions = ("view",)
        constraints = (
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="release_amount_positive"),
            models.CheckConstraint(
                condition=Q(status="released", transaction__isnull=False)
                | (~Q(status="released") & Q(transaction__isnull=True)),
                name="release_has_its_transaction",
            ),
        )
        indexes = (
            models.Index(fields=["due_at", "id"], name="release_due", condition=Q(status="scheduled")),
        )
        permissions = (
            ("hold_ledgerrelease", "Can hold and lift releases"),
            ("cancel_ledgerrelease", "Can cancel releases"),
        )

    def __str__(self) -> str:
        return f"{self.amount} to {self.owner}"

    @property
    def amount(self) -> Money:
        return Money(self.amount_minor, self.currency)

    def event_payload(self) -> dict[str, Any]:
        return {
            "release_id": str(self.pk),
            "owner_id": str(self.owner_id),
            "amount_minor": self.amount_minor,
            "currency": self.currency,
            "source": self.source,
            "transaction_id": str(self.transaction_id) if self.transaction_id else None,
        }

    @transition(
        field=status,
        source="scheduled",
        target="held",
        permission="ledger.hold_ledgerrelease",
        custom={"event": "ledger.release_held", "label": "Hold"},
    )
    def hold(self) -> None:
        """Seasoning goes on, but nothing is released until the hold is lifted."""

    @transition(
        field=status,
        source="held",
        target="scheduled",
        permission="ledger.hold_ledgerrelease",
        custom={"event": "ledger.release_lifted", "label": "Lift hold"},
    )
    def lift(self) -> None:
        """Due again at its old instant."""

    @transition(
        field=status,
        source=["scheduled", "held"],
        target="cancelled",
        permission="ledger.cancel_ledgerrelease",
        custom={"event": "ledger.release_cancelled", "label": "Cancel"},
    )
    def cancel(self) -> None:
        """The money stays in holding; whoever cancels says where it goes."""

    @transition(field=status, source="scheduled", target="released", custom={"event": "ledger.released"})
    def release(self, *, transaction: LedgerTransaction) -> None:
        self.transaction = transaction

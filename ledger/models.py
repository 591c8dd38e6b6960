"""The double-entry ledger: what was posted is never changed; corrections are new transactions.

Amounts are signed minor units, credit positive and debit negative. Rows are written only by SQL
functions (`ledger/migrations`): `ledger_post` writes transactions with their entries and keeps
`LedgerBalance`; `ledger_keep` folds what is posted into `LedgerDay` and `LedgerSeal` afterwards.
A pending transaction sets money aside (`LedgerHold`); posting or discarding it is a new transaction
that `resolves` it, at most once.
"""

from datetime import UTC, datetime, time
from typing import Any

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7
from commerce.money import Money
from ledger.rules.kinds import AccountClass, Side
from ledger.rules.kinds import Kind as Kind
from ledger.rules.recipes import RECIPES


def kinds() -> list[tuple[str, str]]:
    """The choices of `LedgerAccount.kind`; a function, so that a new kind needs no migration."""
    return [(kind.value, kind.label) for kind in Kind]


def _choices(values: type[Side] | type[AccountClass]) -> list[tuple[str, str]]:
    return [(value.value, value.value.capitalize()) for value in values]


class LedgerAccount(models.Model):
    """One owner's money of one kind in one currency. Opened by the first posting."""

    append_only = only_functions_write = True

    id = models.BigAutoField(primary_key=True)
    owner = models.ForeignKey("parties.Organization", on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=32, choices=kinds)
    currency = models.CharField(max_length=5)
    account_class = models.CharField(max_length=16, choices=_choices(AccountClass))
    normal = models.CharField(max_length=6, choices=_choices(Side))
    stripes = models.PositiveSmallIntegerField(
        default=1, help_text="Over how many rows the balance is spread, so that writers need not queue."
    )
    opened_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name, verbose_name_plural = "account", "accounts"
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=["owner", "kind", "currency"], name="account_once"),
            models.CheckConstraint(condition=Q(currency__regex="^[A-Z]{3,5}$"), name="account_currency_code"),
            models.CheckConstraint(condition=Q(stripes__gte=1), name="account_has_a_stripe"),
        )
        indexes = (
            models.Index(fields=["kind", "currency"], name="account_by_kind"),
            models.Index(fields=["opened_at"], name="account_by_opening"),
        )

    def __str__(self) -> str:
        return f"{self.owner} · {Kind(self.kind).label} · {self.currency}"

    def on_normal_side(self, signed: int) -> int:
        """A credit-positive amount as this account counts it."""
        return signed if self.normal == Side.CREDIT else -signed


class LedgerBalance(models.Model):
    """One stripe of an account's running sums; the only ledger row that postings update.

    The account's balance is the sum of its stripes. An account with a floor has one stripe. `currency`
    and `stripes` repeat the account's, so that a posting need not read it. Domains keep `posted` within
    what an amount may be and what is held from falling below nothing.
    """

    only_functions_write = True
    own_guards = ("guard_fixed", "guard_stripe")

    pk = models.CompositePrimaryKey("account_id", "stripe")
    account = models.ForeignKey(
        LedgerAccount, on_delete=models.PROTECT, related_name="balances", db_index=False
    )
    stripe = models.SmallIntegerField()
    stripes = models.SmallIntegerField()
    currency = models.CharField(max_length=5)
    posted = models.BigIntegerField(default=0, help_text="Sum of all entries.")
    held_dr = models.BigIntegerField(default=0, help_text="Debits that pending transactions set aside.")
    held_cr = models.BigIntegerField(default=0, help_text="Credits that pending transactions announce.")
    version = models.BigIntegerField(default=0, help_text="Number of entries.")
    floor = models.BigIntegerField(null=True, help_text="Posted less held debits never falls below it.")
    recorded_at = models.DateTimeField(help_text="Of the latest entry; the next is never earlier.")

    class Meta:
        verbose_name, verbose_name_plural = "balance", "balances"
        default_permissions = ("view",)
        constraints = (
            # Unknown, and so granted, where there is no floor.
            models.CheckConstraint(
                condition=Q(posted__gte=F("floor") + F("held_dr")), name="balance_not_below_floor"
            ),
        )

    def __str__(self) -> str:
        return f"{self.account}: {self.posted}"


class LedgerPeriod(models.Model):
    """A calendar month of business time (UTC). What is posted for a closed one goes to the first open one."""

    aggregate_type = "ledger_period"
    updatable_only = ("status",)

    class Status(models.TextChoices):
        OPEN = "open"
        CLOSING = "closing"
        CLOSED = "closed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    starts_on = models.DateField(unique=True)
    ends_on = models.DateField(unique=True, help_text="The first day after it.")
    status = FSMField(default=Status.OPEN, choices=Status.choices)

    class Meta:
        verbose_name, verbose_name_plural = "accounting period", "accounting periods"
        default_permissions = ("view",)
        constraints = (
            models.CheckConstraint(condition=Q(ends_on__gt=F("starts_on")), name="period_has_days"),
        )
        indexes = (models.Index(fields=["-ends_on"], name="period_not_open", condition=~Q(status="open")),)
        permissions = (
            ("close_ledgerperiod", "Can close accounting periods"),
            ("request_reopening", "Can ask for a closed period to be opened again"),
            ("reopen_ledgerperiod", "Can approve that a closed period is opened again"),
        )

    def __str__(self) -> str:
        return f"{self.starts_on:%B %Y}"

    @property
    def starts_at(self) -> datetime:
        return datetime.combine(self.starts_on, time.min, UTC)

    @property
    def ends_at(self) -> datetime:
        """The first instant after it."""
        return datetime.combine(self.ends_on, time.min, UTC)

    def event_payload(self) -> dict[str, Any]:
        return {
            "period_id": str(self.pk),
            "starts_on": self.starts_on.isoformat(),
            "ends_on": self.ends_on.isoformat(),
        }

    @transition(
        field=status,
        source="open",
        target="closing",
        permission="ledger.close_ledgerperiod",
        custom={"event": "ledger.period_closing", "label": "Close"},
    )
    def begin_closing(self) -> None:
        """From here on postings for it go to the next one; those on their way still arrive."""

    @transition(field=status, source="closing", target="closed", custom={"event": "ledger.period_closed"})
    def finish_closing(self) -> None:
        """Nothing can arrive any more; its balances are kept."""

    @transition(
        field=status,
        source="closed",
        target="open",
        permission="ledger.reopen_ledgerperiod",
        custom={"event": "ledger.period_reopened", "label": "Reopen"},
    )
    def reopen(self) -> None:
        """Postings for it are its own again."""


class LedgerPeriodBalance(models.Model):
    """What an account opened and closed a period with, and moved in it; written when it is closed."""

    only_functions_write = True

    pk = models.CompositePrimaryKey("period_id", "account_id")
    period = models.ForeignKey(
        LedgerPeriod, on_delete=models.PROTECT, related_name="balances", db_index=False
    )
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="+")
    opening = models.BigIntegerField(help_text="Credit positive.")
    debit = models.BigIntegerField()
    credit = models.BigIntegerField()
    closing = models.BigIntegerField(help_text="Credit positive.")

    class Meta:
        verbose_name, verbose_name_plural = "period balance", "period balances"
        default_permissions = ("view",)
        constraints = (
            models.CheckConstraint(
                condition=Q(closing=F("opening") + F("credit") - F("debit")), name="period_balance_adds_up"
            ),
        )

    def __str__(self) -> str:
        return f"{self.account_id} {self.period_id}: {self.closing}"


class LedgerTransaction(models.Model):
    """One business fact. `key` makes it happen once; `effective_at` is business time.

    What it refers to is locked by the function that writes it and never goes away, so that no foreign
    key need ask again; `ledger_verify` does. What its columns must be together, a trigger says, at a
    fifth of what CHECKs cost that are read anew by each statement (docs/decisions/checks.md).
    """

    append_only = only_functions_write = True
    own_guards = ("guard_sound",)

    class Status(models.TextChoices):
        POSTED = "posted"
        PENDING = "pending"
        DISCARDED = "discarded"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    key = models.CharField(max_length=200, help_text="provider:object:fact or source:step.")
    fingerprint = models.BinaryField(help_text="Hash of the content: the same key with another is refused.")
    status = models.CharField(max_length=10, choices=Status.choices)
    source = models.CharField(max_length=120, help_text="What caused it, as type:id.")
    recipe = models.CharField(max_length=60)
    description = models.CharField(max_length=300, blank=True)
    actor = models.CharField(max_length=120)
    effective_at = models.DateTimeField(help_text="Business time.")
    recorded_at = models.DateTimeField(help_text="System time.")
    reverses = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="reversals",
        db_index=False,
        db_constraint=False,
        help_text="The posted transaction that this one takes back, whole or in part.",
    )
    resolves = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.PROTECT,
        related_name="resolutions",
        db_index=False,
        db_constraint=False,
        help_text="The pending transaction that this one posts or discards.",
    )
    adjusts_period = models.ForeignKey(
        LedgerPeriod,
        null=True,
        on_delete=models.PROTECT,
        related_name="adjustments",
        db_index=False,
        db_constraint=False,
        help_text="The closed period that it belongs to by business time.",
    )
    meant_at = models.DateTimeField(
        null=True, help_text="Its business time, where a closed period moved `effective_at`."
    )

    class Meta:
        verbose_name, verbose_name_plural = "transaction", "transactions"
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=["key"], name="transaction_key_once"),
            models.UniqueConstraint(
                fields=["resolves"], name="pending_resolved_once", condition=Q(resolves__isnull=False)
            ),
        )
        indexes = (
            models.Index(fields=["source", "-id"], name="transaction_by_source"),
            models.Index(fields=["recorded_at"], name="transaction_by_recording"),
            models.Index(
                fields=["reverses"], name="transaction_reversals", condition=Q(reverses__isnull=False)
            ),
            models.Index(
                fields=["adjusts_period"],
                name="transaction_adjustments",
                condition=Q(adjusts_period__isnull=False),
            ),
        )
        permissions = (
            ("request_reversal", "Can ask for a posting to be reversed"),
            ("approve_reversal", "Can approve that a posting is reversed"),
        )

    def __str__(self) -> str:
        return f"{self.recipe_name}: {self.description or self.key}"

    @property
    def recipe_name(self) -> str:
        return self.recipe.replace("_", " ").capitalize()

    @property
    def explanation(self) -> str:
        return RECIPES.get(self.recipe, "")


class LedgerEntry(models.Model):
    """One leg of a posted transaction: the `version`-th movement of one stripe of an account.

    One table, or one for each month of `recorded_at` (`ledger_partition`). References are checked by the
    function that writes the row and by `ledger_verify`, not by foreign keys, which would lock the
    platform's accounts on each posting.
    """

    append_only = only_functions_write = True
    own_guards = ("guard_balanced",)

    pk = models.CompositePrimaryKey("account_id", "stripe", "version")
    account = models.ForeignKey(
        LedgerAccount, on_delete=models.PROTECT, related_name="entries", db_index=False, db_constraint=False
    )
    stripe = models.SmallIntegerField()
    version = models.BigIntegerField()
    transaction = models.ForeignKey(
        LedgerTransaction, on_delete=models.PROTECT, related_name="entries", db_constraint=False
    )
    currency = models.CharField(max_length=5)
    amount = models.BigIntegerField(help_text="Minor units, credit positive, debit negative.")
    balance_after = models.BigIntegerField(help_text="Of the stripe, credit positive.")
    effective_at = models.DateTimeField()
    recorded_at = models.DateTimeField()

    class Meta:
        verbose_name, verbose_name_plural = "entry", "entries"
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=["account", "effective_at", "recorded_at"], name="entry_by_effective_at"),
            BrinIndex(fields=["recorded_at"], name="entry_by_recording"),
        )

    def __str__(self) -> str:
        return f"{self.account_id}/{self.stripe}#{self.version}: {self.amount}"


class LedgerHold(models.Model):
    """One leg of a pending transaction: set aside, not yet moved."""

    append_only = only_functions_write = True
    own_guards = ("guard_balanced",)

    id = models.BigAutoField(primary_key=True)
    transaction = models.ForeignKey(LedgerTransaction, on_delete=models.PROTECT, related_name="holds")
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="holds")
    stripe = models.SmallIntegerField()
    currency = models.CharField(max_length=5)
    amount = models.BigIntegerField(help_text="Minor units, credit positive, debit negative.")

    class Meta:
        verbose_name, verbose_name_plural = "hold", "holds"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.account_id}: {self.amount}"


class LedgerDay(models.Model):
    """What the entries recorded on one UTC day moved on an account in one day of business time.

    Folded from the entries up to the latest seal; reads add the entries recorded since.
    """

    only_functions_write = True

    pk = models.CompositePrimaryKey("account_id", "day", "recorded_day")
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="days", db_index=False)
    day = models.DateField(help_text="Of business time.")
    recorded_day = models.DateField()
    debit = models.BigIntegerField()
    credit = models.BigIntegerField()
    entries = models.BigIntegerField()

    class Meta:
        verbose_name, verbose_name_plural = "day", "days"
        default_permissions = ("view",)
        indexes = (
            BrinIndex(fields=["day"], name="ledger_day_by_day"),
            models.Index(fields=["account", "recorded_day", "day"], name="ledger_day_by_recording"),
        )

    def __str__(self) -> str:
        return f"{self.account_id} {self.day}: {self.credit - self.debit}"


class LedgerMonth(models.Model):
    """The sum of an account's `LedgerDay` rows of one month of business time, recorded in one month."""

    only_functions_write = True

    pk = models.CompositePrimaryKey("account_id", "month", "recorded_month")
    account = models.ForeignKey(
        LedgerAccount, on_delete=models.PROTECT, related_name="months", db_index=False
    )
    month = models.DateField(help_text="Of business time: its first day.")
    recorded_month = models.DateField()
    debit = models.BigIntegerField()
    credit = models.BigIntegerField()

    class Meta:
        verbose_name, verbose_name_plural = "month", "months"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.account_id} {self.month:%Y-%m}: {self.credit - self.debit}"


class LedgerSeal(models.Model):
    """A block of the tamper-evident chain: every transaction recorded after the previous one, up to `until`.

    `members` is one id (16 bytes) and digest (32 bytes) per transaction in the order of recording, then
    per account opened in that time; `hash` covers the previous hash, the bounds, the counts and the members.
    """

    append_only = only_functions_write = True

    number = models.BigIntegerField(primary_key=True)
    until = models.DateTimeField(unique=True, help_text="Covers what was recorded up to this instant.")
    transactions = models.IntegerField()
    entries = models.IntegerField()
    members = models.BinaryField()
    previous = models.BinaryField()
    hash = models.BinaryField()
    sealed_at = models.DateTimeField()

    class Meta:
        verbose_name, verbose_name_plural = "seal", "seals"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"Seal {self.number:,}"


class LedgerArchive(models.Model):
    """A month of entries left for a file, or came back; the latest row says where the rest begins."""

    append_only = only_functions_write = True

    class Step(models.TextChoices):
        REMOVED = "removed"
        RESTORED = "restored"

    id = models.BigAutoField(primary_key=True)
    month = models.DateField(help_text="Of recording: its first day.")
    step = models.CharField(max_length=10, choices=Step.choices)
    horizon = models.DateTimeField(help_text="From here on, nothing recorded before it is present.")
    file = models.CharField(max_length=100)
    sha256 = models.CharField(max_length=64, help_text="Of the file's content, uncompressed.")
    entries = models.BigIntegerField()
    transactions = models.BigIntegerField()
    first_recorded_at = models.DateTimeField(null=True)
    last_recorded_at = models.DateTimeField(null=True)
    last_day = models.DateField(
        null=True, help_text="The latest day of business time that its entries moved."
    )
    noted_at = models.DateTimeField()
    actor = models.CharField(max_length=120)

    class Meta:
        verbose_name, verbose_name_plural = "archived month", "archived months"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.month:%B %Y}, {self.step}"


class LedgerCarriedBalance(models.Model):
    """Where a stripe stood after the last entry of an archived month; what is left goes on from there."""

    append_only = only_functions_write = True

    pk = models.CompositePrimaryKey("account_id", "stripe", "version")
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="+", db_index=False)
    stripe = models.PositiveSmallIntegerField()
    version = models.BigIntegerField()
    balance_after = models.BigIntegerField(help_text="Of the stripe, credit positive.")
    recorded_at = models.DateTimeField()

    class Meta:
        verbose_name, verbose_name_plural = "carried balance", "carried balances"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.account_id}/{self.stripe}#{self.version}: {self.balance_after}"


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
    currency = models.CharField(max_length=5)
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

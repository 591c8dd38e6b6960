"""Reversing a posting by hand: one person requests it, whole or in part, and another lets it be posted.

A request is rehearsed, so that what the ledger would refuse now is refused at once; approving posts it
under the same rules. Where an application's state stands on a posting, its veto says where to go instead.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Sum
from django.db.transaction import atomic, set_rollback

from commerce.actor import Actor
from commerce.console.approvals import Operation, is_bound, register_operation, request_approval
from commerce.console.models import Approval, ApprovalStatus
from commerce.errors import InvalidInput, StateConflict
from commerce.ids import uuid7
from commerce.money import Money
from ledger.models import LedgerAccount, LedgerEntry, LedgerTransaction
from ledger.rules.kinds import Kind, Side
from ledger.rules.recipes import RECIPES, Entry, require_balance
from ledger.services.horizon import archived, is_archived
from ledger.services.posting import reverse

OPERATION = "ledger.reverse"
MAKER = "ledger.request_reversal"
REASON_LENGTH = 300

_vetoes: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Part:
    """How much of what a posting moved on one account is to be taken back."""

    account_id: int
    amount: Money


@dataclass(frozen=True)
class ReversalLeg:
    """One leg of a reversal: `side` is opposite to the original's."""

    account: LedgerAccount
    side: Side
    amount: Money

    def __str__(self) -> str:
        return f"{self.side} {self.amount}, {self.account.owner.name}: {Kind(self.account.kind).label}"

    @property
    def entry(self) -> Entry:
        return Entry(self.account.owner_id, self.account.kind, self.amount, self.side)


def register_reversal_veto(*, recipe: str, sentence: str, source: str = "") -> None:
    """Nobody reverses postings of `recipe` by hand, since an application's own state depends on them.

    With `source` only those that things of this type caused. `sentence` says where to do it instead.
    """
    if recipe not in RECIPES:
        raise ImproperlyConfigured(f"There is no recipe {recipe!r} whose reversal could be refused.")
    _vetoes[recipe, source] = sentence


def reversal_veto(transaction: LedgerTransaction) -> str:
    """ "" or why this posting is not reversed by hand; a reversal is as protected as its original."""
    original = transaction
    while original.reverses is not None:
        original = original.reverses
    kind = original.source.partition(":")[0]
    return _vetoes.get((original.recipe, kind)) or _vetoes.get((original.recipe, ""), "")


def left_to_reverse(transaction: LedgerTransaction) -> list[ReversalLeg]:
    """The legs of a reversal of all that no reversal has taken back yet; zero where nothing is left."""
    left: dict[tuple[LedgerAccount, Side], int] = defaultdict(int)
    entries = transaction.entries.select_related("account__owner")
    for entry in entries.order_by("account", "stripe", "version"):
        left[entry.account, Side.DEBIT if entry.amount > 0 else Side.CREDIT] += abs(entry.amount)
    if not left:
        return []
    for taken in LedgerEntry.objects.filter(transaction__reverses=transaction).select_related("account"):
        left[taken.account, Side.CREDIT if taken.amount > 0 else Side.DEBIT] -= abs(taken.amount)
    return [
        ReversalLeg(account, side, Money(minor, account.currency)) for (account, side), minor in left.items()
    ]


def sums_left(transactions: Iterable[LedgerTransaction]) -> dict[UUID, list[Money]]:
    """How much of each can still be taken back, per currency; two questions for all, whatever was taken.

    Of what is archived, nothing is said.
    """
    ids = [transaction.pk for transaction in transactions]
    left: dict[UUID, dict[str, int]] = {}
    for of in ("transaction", "transaction__reverses"):
        debits = LedgerEntry.objects.filter(**{f"{of}__in": ids}, amount__lt=0)
        for pk, currency, minor in debits.values_list(of, "currency").annotate(minor=-Sum("amount")):
            if of == "transaction":
                left.setdefault(pk, {})[currency] = int(minor)
            elif pk in left:
                left[pk][currency] -= int(minor)
    return {
        pk: [Money(minor, currency) for currency, minor in sorted(sums.items())] for pk, sums in left.items()
    }


def why_not_reverse(transaction: LedgerTransaction) -> str:
    """ "" or why nobody can ask for this posting to be reversed."""
    obstacle = _obstacle(transaction, left_to_reverse(transaction))
    return obstacle.detail if obstacle else ""


def reversal_in_words(transaction: LedgerTransaction, legs: Iterable[ReversalLeg]) -> str:
    """What posting these legs takes back and what it leaves, each in a line."""
    taken = list(legs)
    rest = _debits(left_to_reverse(transaction))
    for currency, minor in _debits(taken).items():
        rest[currency] -= minor
    amounts = " and ".join(str(Money(minor, currency)) for currency, minor in rest.items() if minor > 0)
    return "\n".join(
        [
            f"Takes back, of {transaction} ({transaction.effective_at:%d %B %Y}):",
            *(f"{leg};" for leg in taken),
            f"what is left to reverse after it: {amounts or 'nothing'}.",
        ]
    )


@atomic
def request_reversal(
    *,
    transaction: LedgerTransaction,
    reason: str,
    actor: Actor,
    at: datetime,
    parts: Sequence[Part] | None = None,
) -> Approval:
    """Ask a second person to let a posting be reversed: by `parts`, or by all that is left of it.

    StateConflict for what cannot be reversed by hand now; InvalidInput names the part that is wrong;
    what else the ledger would refuse, as InsufficientFunds, is raised as it is. `reason` becomes the
    reversal's description.
    """
    actor.require(MAKER)
    if len(reason) > REASON_LENGTH:
        raise InvalidInput(
            f"A reason has at most {REASON_LENGTH} characters.", pointer="/reason", code="max_length"
        )
    left = left_to_reverse(transaction)
    if obstacle := _obstacle(transaction, left):
        raise obstacle
    legs = [leg for leg in left if leg.amount.minor] if parts is None else _chosen(left, parts)
    _rehearse(transaction, legs, reason, actor, at)
    at_stake = [Money(minor, currency) for currency, minor in _debits(legs).items()]
    return request_approval(
        operation=OPERATION,
        arguments={
            "transaction_id": str(transaction.pk),
            "reason": reason,
            "legs": [
                {
                    "account_id": leg.account.pk,
                    "side": str(leg.side),
                    "amount_minor": leg.amount.minor,
                    "currency": leg.amount.currency,
                }
                for leg in sorted(legs, key=lambda leg: (leg.account.pk, leg.side))
            ],
        },
        subject_type="ledger.ledgertransaction",
        subject_id=transaction.pk,
        reason=reason,
        actor=actor,
        at=at,
        value=at_stake[0] if len(at_stake) == 1 else None,
    )


def _obstacle(transaction: LedgerTransaction, left: Sequence[ReversalLeg]) -> StateConflict | None:
    if transaction.status != LedgerTransaction.Status.POSTED:
        return StateConflict(
            f"It is {transaction.status}; only what is posted can be reversed.",
            code="not_posted",
            state=transaction.status,
        )
    if sentence := reversal_veto(transaction):
        return StateConflict(sentence, code="not_by_hand")
    if is_archived(transaction):
        return archived(f"{transaction.recorded_at.astimezone(UTC):%Y-%m}")
    if not any(leg.amount.minor for leg in left):
        return StateConflict("All of it was reversed already.", code="already_reversed")
    return None


def _chosen(left: Iterable[ReversalLeg], parts: Sequence[Part]) -> list[ReversalLeg]:
    """The legs that the parts name, which balance. InvalidInput points at the first that cannot be."""
    legs: dict[int, list[ReversalLeg]] = defaultdict(list)
    for leg in left:
        legs[leg.account.pk].append(leg)
    chosen: dict[int, ReversalLeg] = {}
    for place, part in enumerate(parts):
        pointer, amount, of_account = f"/parts/{place}", part.amount, legs.get(part.account_id, [])
        if not of_account:
            raise _wrong(pointer + "/account_id", "account_not_in_posting", "It did not move this account.")
        if len(of_account) > 1:
            raise _wrong(
                pointer + "/account_id",
                "account_on_both_sides",
                "It debited and credited this account; reverse the whole.",
            )
        if part.account_id in chosen:
            raise _wrong(pointer + "/account_id", "account_twice", "This account has a part already.")
        (leg,) = of_account
        if amount.currency != leg.amount.currency:
            raise _wrong(
                pointer + "/amount/currency",
                "currency_mismatch",
                f"This account is in {leg.amount.currency}, not in {amount.currency}.",
            )
        if amount.minor <= 0:
            raise _wrong(
                pointer + "/amount/amount_minor",
                "amount_not_positive",
                f"A part takes back more than nothing, not {amount}.",
            )
        if amount.minor > leg.amount.minor:
            raise _wrong(
                pointer + "/amount/amount_minor",
                "more_than_posted",
                f"{leg.amount} can still be reversed on {leg.account}, not {amount}.",
            )
        chosen[part.account_id] = ReversalLeg(leg.account, leg.side, amount)
    if not chosen:
        raise _wrong("/parts", "no_entries", "There is nothing to take back.")
    try:
        require_balance(leg.entry for leg in chosen.values())
    except InvalidInput as error:
        raise InvalidInput(error.detail, pointer="/parts", code=error.code, **error.extra) from error
    return list(chosen.values())


def _wrong(pointer: str, code: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, pointer=pointer, code=code)


def _debits(legs: Iterable[ReversalLeg]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for leg in legs:
        if leg.side == Side.DEBIT:
            sums[leg.amount.currency] += leg.amount.minor
    return sums


@atomic
def _rehearse(
    transaction: LedgerTransaction, legs: Iterable[ReversalLeg], reason: str, actor: Actor, at: datetime
) -> None:
    """Post the reversal and take it back at once: what the ledger refuses is refused before anybody waits."""
    reverse(
        transaction=transaction,
        key=f"rehearsal:{uuid7()}",
        at=at,
        actor=actor,
        reason=reason,
        entries=[leg.entry for leg in legs],
    )
    set_rollback(True)


def _requested(approval: Approval) -> tuple[LedgerTransaction, list[ReversalLeg]]:
    legs = approval.arguments["legs"]
    accounts = LedgerAccount.objects.select_related("owner").in_bulk([leg["account_id"] for leg in legs])
    return LedgerTransaction.objects.get(pk=approval.arguments["transaction_id"]), [
        ReversalLeg(
            accounts[leg["account_id"]], Side(leg["side"]), Money(leg["amount_minor"], leg["currency"])
        )
        for leg in legs
    ]


def _overtaken(approval: Approval) -> str:
    """ "" or which leg can no longer be taken back, since other reversals came before this one."""
    transaction, legs = _requested(approval)
    left = {(leg.account, leg.side): leg.amount for leg in left_to_reverse(transaction)}
    for leg in legs:
        still = left.get((leg.account, leg.side))
        if still is not None and still < leg.amount:
            return (
                f"Other reversals of {transaction} came first: {still} can still be reversed on "
                f"{leg.account}, not {leg.amount}."
            )
    return ""


def _run(*, approval: Approval, actor: Actor, at: datetime) -> LedgerTransaction:
    transaction, legs = _requested(approval)
    if sentence := reversal_veto(transaction):
        raise StateConflict(sentence, code="not_by_hand")
    return reverse(
        transaction=transaction,
        key=f"reversal:{approval.pk}",
        at=at,
        actor=actor,
        reason=approval.arguments["reason"],
        entries=[leg.entry for leg in legs],
    )


def _describe(approval: Approval) -> str:
    if not is_bound(approval):
        return "It is no longer what was requested, and cannot be approved."
    transaction, legs = _requested(approval)
    if approval.status == ApprovalStatus.PENDING:
        if why := _overtaken(approval):
            return f"{why} Approving it posts nothing and closes the request."
        return reversal_in_words(transaction, legs)
    return "\n".join([f"Of {transaction}:", *(f"{leg};" for leg in legs), "see its chain for what is left."])


register_operation(
    Operation(
        name=OPERATION,
        label="Reverse a posting",
        maker=MAKER,
        checker="ledger.approve_reversal",
        run=_run,
        describe=_describe,
        overtaken=_overtaken,
    )
)

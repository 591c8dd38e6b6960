"""Payouts: requesting, approving, cancelling, and what the bank's word about one changes.

A payout moves PAYABLE to PAYOUT_IN_TRANSIT when it is requested, and every way out of transit has
one posting with one key. A payout that came back is never sent again: a new one is made.
"""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, Sum
from django.utils import timezone

from commerce.actor import Actor
from commerce.console.services import clear_reviews, open_review
from commerce.errors import CommerceError, Conflict, InvalidInput, PermissionDenied
from commerce.ids import uuid7
from commerce.money import Money
from commerce.parties.models import Organization
from commerce.states import transition
from ledger import services as ledger
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.rules.recipes import Entry
from payouts.models import CAME_BACK, PayeePolicy, Payout, PayoutItem, SettlementLeg, new_references
from payouts.rules.policy import approval_reason, retry_delay
from payouts.rules.progress import blocks_account
from payouts.rules.splits import allocate_oldest_first
from payouts.services.payees import Mode, block_account, is_new_account, lock_payee, next_due, payable_account
from payouts.services.settlements import release_legs, settle_legs, unmarked_legs

log = logging.getLogger(__name__)

TRY_AGAIN_AFTER = timedelta(days=1)
ANSWER_WITHIN = timedelta(hours=1)
POLICY = Actor.system("payout-policy")
# The review of a payout whose sending was skipped.
UNSENT = "payout_unsent"
# The failure's code of a payout that two people gave up.
GIVEN_UP = "given_up"


@transaction.atomic
def request_payout(
    *,
    payee: Organization,
    currency: str,
    actor: Actor,
    at: datetime,
    amount: Money | None = None,
    reason: str = "",
) -> Payout:
    """Pay out `amount`, or all that is payable in `currency`.

    Sent at once when policy alone may decide, else it waits for a second person. Conflict when nothing
    is payable or there is no account to pay to; InsufficientFunds when less is payable than asked for.
    """
    actor.require("payouts.request_payout")
    policy = lock_payee(payee.pk)
    account = payable_account(policy)
    # The balance is read before the legs: money released in between has its leg left for the next payout.
    amount = amount or payable(payee.pk, currency)
    if amount.currency != currency:
        raise InvalidInput(
            f"{amount} is not in {currency}.", pointer="/amount/currency", code="currency_mismatch"
        )
    if amount.minor <= 0:
        raise Conflict(f"Nothing is payable to {payee} in {currency}.", code="nothing_payable")
    release_legs(unmarked_legs(payee.pk, currency), actor=actor, at=at)
    by_hand = actor.type == "user" or (actor.type == "api_key" and actor.organization_id != payee.pk)
    why = approval_reason(
        amount_minor=amount.minor,
        limit_minor=settings.PAYOUT_APPROVAL_LIMIT_MINOR,
        by_hand=by_hand,
        new_account=is_new_account(account),
    )
    id_ = uuid7()
    payout = Payout.objects.create(
        id=id_,
        payee=payee,
        account=account,
        currency=currency,
        amount_minor=amount.minor,
        attempt=_attempt(payee.pk, currency),
        requested_by=str(actor),
        requested_at=at,
        **new_references(id_),
    )
    _attribute(payout)
    _post(payout, "request", recipes.request_payout(payee=payee.pk, amount=amount), actor=actor, at=at)
    if why:
        return transition(payout, "ask_approval", actor=actor, at=at, reason=reason, why=why)
    return transition(payout, "approve_by_policy", actor=actor, at=at, reason=reason, when=at)


def payable(payee_id: UUID, currency: str) -> Money:
    return Money(ledger.balance(owner=payee_id, kind=Kind.PAYABLE, currency=currency), currency)


def payables(payee_id: UUID) -> list[Money]:
    """All that is payable to a payee, one amount per currency."""
    found = ledger.balances(owner=payee_id, kinds=[Kind.PAYABLE])
    return [balance.posted for balance in found if balance.posted.minor > 0]


def unresolved_payouts() -> QuerySet[Payout]:
    """Payouts that failed or came back and that no newer payout of the payee has taken up."""
    newer = Payout.objects.filter(
        payee=OuterRef("payee"), currency=OuterRef("currency"), id__gt=OuterRef("id")
    )
    return Payout.objects.filter(~Exists(newer), status__in=["failed", "returned"])


def unanswered_payouts() -> QuerySet[Payout]:
    """What the bank should have said something about: payouts in doubt, and those submitted an hour ago."""
    late = Q(status="submitted", watched_since__lt=timezone.now() - ANSWER_WITHIN)
    return Payout.objects.filter(late | Q(status="unknown"))


def _attempt(payee_id: UUID, currency: str) -> int:
    last = Payout.objects.filter(payee_id=payee_id, currency=currency).order_by("-id").first()
    return last.attempt + 1 if last and last.status in ("failed", "returned") else 1


def _attribute(payout: Payout) -> None:
    """Say which legs the payout pays: the oldest released ones, as far as the amount goes."""
    claimed = Sum("items__amount_minor", filter=~Q(items__payout__status__in=CAME_BACK), default=0)
    legs = (
        SettlementLeg.objects.filter(
            payee_id=payout.payee_id,
            currency=payout.currency,
            status="released",
            kind__in=["partner", "seller"],
        )
        .annotate(claimed=claimed)
        .order_by("pk")
    )
    open_legs = [(leg, leg.amount_minor - leg.claimed) for leg in legs if leg.amount_minor > leg.claimed]
    parts = allocate_oldest_first(payout.amount_minor, [rest for _, rest in open_legs])
    PayoutItem.objects.bulk_create(
        PayoutItem(payout=payout, leg=leg, amount_minor=part)
        for (leg, _), part in zip(open_legs, parts, strict=True)
        if part
    )


def approve_payout(*, payout: Payout, actor: Actor, at: datetime, reason: str = "") -> Payout:
    """Agree to a payout that somebody else requested; it is sent at once."""
    if payout.requested_by == str(actor) or actor.organization_id == payout.payee_id:
        raise PermissionDenied(
            "Neither who requested a payout nor its payee may approve it.", code="own_payout"
        )
    return transition(payout, "approve", actor=actor, at=at, reason=reason, by=str(actor), when=at)


def reject_payout(*, payout: Payout, actor: Actor, at: datetime, reason: str) -> Payout:
    """Refuse a payout that waits for approval; its money is payable again."""
    return _withdraw(payout, "reject", actor=actor, at=at, reason=reason)


def cancel_payout(*, payout: Payout, actor: Actor, at: datetime, reason: str = "") -> Payout:
    """Withdraw a payout that has not been sent; its money is payable again."""
    return _withdraw(payout, "cancel", actor=actor, at=at, reason=reason)


@transaction.atomic
def _withdraw(payout: Payout, verb: str, *, actor: Actor, at: datetime, reason: str) -> Payout:
    payout = transition(payout, verb, actor=actor, at=at, reason=reason)
    policy = lock_payee(payout.payee_id)
    _clear_unsent(payout, actor=actor, at=at)
    back = recipes.fail_payout(payee=payout.payee_id, amount=payout.amount)
    _post(payout, "cancelled", back, recipe="fail_payout", actor=actor, at=at)
    if policy.mode == Mode.AUTOMATIC:
        review(
            payout,
            "payout_cancelled",
            f"A payout of {payout.amount} to {payout.payee} was withdrawn",
            "The money is payable and leaves with the payee's next payout; request one if that is too late.",
            actor=actor,
            at=at,
        )
    return payout


@transaction.atomic
def release_leg(*, leg_id: UUID, actor: Actor, at: datetime) -> None:
    """The ledger has released a leg's money: mark the leg, and pay an automatic payee at once.

    A payee that waits for a later try, after a failure, is left to wait.
    """
    leg = SettlementLeg.objects.get(pk=leg_id)
    policy = lock_payee(leg.payee_id)
    # All that will be paid, in one order: settlements are shared with other payees, who do the same.
    release_legs([leg, *unmarked_legs(leg.payee_id, leg.currency)], actor=actor, at=at)
    if policy.mode == Mode.AUTOMATIC and (policy.due_at is None or policy.due_at <= at):
        _run(policy, at)


def pay_due(*, at: datetime, actor: Actor, limit: int = 500) -> int:
    """Run the policies that are due at `at`; returns how many ran. One payee's trouble stops nobody else."""
    due = PayeePolicy.objects.filter(due_at__lte=at).order_by("due_at")
    ids = list(due.values_list("organization_id", flat=True)[:limit])
    return sum(_pay_one(organization_id, at) for organization_id in ids)


def _pay_one(organization_id: UUID, at: datetime) -> bool:
    try:
        with transaction.atomic():
            policy = lock_payee(organization_id)
            if policy.due_at and policy.due_at <= at:
                _run(policy, at)
        return True
    except (CommerceError, DatabaseError):
        log.exception("payee left for the next tick", extra={"payee": str(organization_id)})
        return False


def _run(policy: PayeePolicy, at: datetime) -> list[Payout]:
    """Pay what the policy says, and set when it runs again. `policy` is locked."""
    payee = policy.organization
    paid, policy.due_at = [], next_due(policy, at)
    for amount in payables(payee.pk):
        if amount.minor < policy.minimum_minor:
            continue
        try:
            paid.append(request_payout(payee=payee, currency=amount.currency, actor=POLICY, at=at))
        except CommerceError as error:
            log.warning("payout by policy: %s", error, extra={"payee": str(payee.pk), "code": error.code})
            if policy.mode == Mode.AUTOMATIC and error.code != "bank_account_blocked":
                policy.due_at = at + TRY_AGAIN_AFTER
    policy.save(update_fields=["due_at"])
    return paid


# What the bank says


def accept_payout(payout: Payout, *, provider_id: str, actor: Actor, at: datetime) -> Payout:
    """The bank has the order."""
    _clear_unsent(payout, actor=actor, at=at)
    return transition(payout, "accept", actor=actor, at=at, provider_id=provider_id, now=timezone.now())


def confirm_payout(payout: Payout, *, actor: Actor, at: datetime) -> Payout:
    """The bank has paid it: the cash has left, and its legs are paid out."""
    payout = transition(payout, "confirm", actor=actor, at=at, when=at, now=timezone.now())
    gone = recipes.confirm_payout(platform=_platform(), payee=payout.payee_id, amount=payout.amount)
    _post(payout, "paid", gone, recipe="confirm_payout", actor=actor, at=at)
    settle_legs(_leg_ids(payout), actor=actor, at=at)
    return payout


def fail_payout(
    payout: Payout, policy: PayeePolicy, *, code: str, why: str, final: bool, actor: Actor, at: datetime
) -> Payout:
    """It did not leave: the money is payable again, and policy tries again later unless `final`."""
    payout = transition(
        payout,
        "fail",
        actor=actor,
        at=at,
        reason=why,
        code=code,
        why=why,
        when=at,
        watched_from=timezone.now() if code == GIVEN_UP else None,
    )
    _clear_unsent(payout, actor=actor, at=at)
    back = recipes.fail_payout(payee=payout.payee_id, amount=payout.amount)
    _post(payout, "failed", back, recipe="fail_payout", actor=actor, at=at)
    delay = None if final else retry_delay(payout.attempt)
    if blocks_account(code):
        block_account(policy, payout, code)
    elif delay and policy.mode == Mode.AUTOMATIC:
        policy.due_at = at + delay
        policy.save(update_fields=["due_at"])
        return payout
    review(
        payout,
        "payout_failed",
        f"A payout of {payout.amount} to {payout.payee} failed",
        f"{code} {why}".strip() or "The bank gave no reason.",
        actor=actor,
        at=at,
    )
    return payout


def return_payout(
    payout: Payout, policy: PayeePolicy, *, code: str, why: str, return_id: str, actor: Actor, at: datetime
) -> Payout:
    """It came back after it was paid: the cash is here and payable again; a person looks at it."""
    payout = transition(
        payout, "bounce", actor=actor, at=at, reason=why, code=code, why=why, return_id=return_id, when=at
    )
    back = recipes.return_payout(platform=_platform(), payee=payout.payee_id, amount=payout.amount)
    _post(payout, "returned", back, recipe="return_payout", actor=actor, at=at)
    settle_legs(_leg_ids(payout), actor=actor, at=at)
    if blocks_account(code):
        block_account(policy, payout, code)
    review(
        payout,
        "payout_returned",
        f"A payout of {payout.amount} to {payout.payee} came back",
        f"{code} {why}".strip() or "The bank gave no reason.",
        actor=actor,
        at=at,
    )
    return payout


def review_contradiction(payout: Payout, detail: str, *, actor: Actor, at: datetime) -> None:
    """The bank's word does not fit what we know: nothing moves until a person has looked."""
    title = f"The bank's order for {payout.external_id} contradicts us"
    review(payout, "payout_contradiction", title, detail, actor=actor, at=at)


def _clear_unsent(payout: Payout, *, actor: Actor, at: datetime) -> None:
    clear_reviews(
        subject_type="payouts.payout", subject_id=payout.pk, kind=UNSENT, actor=actor, at=at,
        reason="What became of the payout is known.",
    )  # fmt: skip


def review(payout: Payout, kind: str, title: str, detail: str, *, actor: Actor, at: datetime) -> None:
    """Put a payout before a person, once for each kind while it is not resolved."""
    open_review(
        kind=kind,
        subject_type="payouts.payout",
        subject_id=str(payout.pk),
        title=title,
        detail=detail,
        evidence=payout.event_payload(),
        value=payout.amount,
        at=at,
        actor=actor,
    )


def _post(
    payout: Payout,
    step: str,
    entries: tuple[Entry, ...],
    *,
    actor: Actor,
    at: datetime,
    recipe: str = "request_payout",
) -> None:
    ledger.post(
        entries=entries,
        key=f"payout:{payout.pk}:{step}",
        source=f"payout:{payout.pk}",
        recipe=recipe,
        at=at,
        actor=actor,
    )


def _leg_ids(payout: Payout) -> list[UUID]:
    return list(payout.items.values_list("leg_id", flat=True))


def _platform() -> UUID:
    return Organization.objects.platform().pk

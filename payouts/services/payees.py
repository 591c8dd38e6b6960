"""How payees are paid: their policy, their bank account, and the lock that puts their payouts in a line."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from commerce.actor import Actor
from commerce.errors import Conflict, FieldError, InvalidInput, StateConflict
from commerce.outbox import append
from commerce.parties.models import Organization, ProviderReference
from payouts.models import PayeePolicy, Payout
from payouts.rules.policy import next_run

MANAGE = "payouts.operate_payeepolicy"
Mode = PayeePolicy.Mode


def policy_of(organization_id: UUID) -> PayeePolicy:
    """The payee's policy; made with the defaults on first use."""
    return PayeePolicy.objects.get_or_create(organization_id=organization_id)[0]


def lock_payee(organization_id: UUID) -> PayeePolicy:
    """Wait until nobody else pays this payee. Lock order: payout, payee, legs, settlements, ledger."""
    policy = policy_of(organization_id)
    return PayeePolicy.objects.select_for_update(of=("self",), no_key=True).get(pk=policy.pk)


def current_account(organization_id: UUID) -> ProviderReference | None:
    """The bank account that payouts go to: the one added last."""
    return _accounts(organization_id).order_by("-id").first()


def payable_account(policy: PayeePolicy) -> ProviderReference:
    """The account to pay to. Conflict when there is none, when it is blocked, or the payee suspended."""
    if policy.organization.onboarding_status == "suspended":
        raise Conflict(f"{policy.organization} is suspended.", code="payee_suspended")
    account = current_account(policy.organization_id)
    if account is None:
        raise Conflict(f"{policy.organization} has no active bank account.", code="no_bank_account")
    if account.pk == policy.blocked_account_id:
        raise Conflict(
            f"The bank account of {policy.organization} is blocked: {policy.blocked_reason}.",
            code="bank_account_blocked",
        )
    return account


def is_new_account(account: ProviderReference) -> bool:
    """Whether the account came after onboarding and no payout to it has been paid yet."""
    onboarded_with = _accounts(account.organization_id).order_by("id").first()
    return account != onboarded_with and not Payout.objects.filter(account=account, status="paid").exists()


def _accounts(organization_id: UUID) -> Any:
    return ProviderReference.objects.filter(
        organization_id=organization_id, provider="modern_treasury", kind="external_account", status="active"
    )


@transaction.atomic
def set_policy(
    *,
    organization: Organization,
    mode: str,
    actor: Actor,
    at: datetime,
    cadence: str = "",
    day: int | None = None,
    minimum_minor: int = 0,
    reason: str = "",
) -> PayeePolicy:
    """Decide how a payee is paid from now on. Automatic pays at once what is already payable."""
    actor.require(MANAGE)
    if not organization.is_payee:
        raise InvalidInput(f"{organization} is neither a seller nor a partner.", code="not_a_payee")
    _check_schedule(mode, cadence, day, minimum_minor)
    policy = lock_payee(organization.pk)
    before = _terms(policy)
    policy.mode, policy.cadence, policy.day, policy.minimum_minor = mode, cadence, day, minimum_minor
    policy.due_at = next_due(policy, at) if mode == Mode.SCHEDULED else at if mode == Mode.AUTOMATIC else None
    policy.save()
    _tell(policy, "payee_policy.changed", actor, at, before=before, after=_terms(policy), reason=reason)
    return policy


def next_due(policy: PayeePolicy, at: datetime) -> datetime | None:
    """When a scheduled policy runs after `at`; the others wait for an event."""
    if policy.mode != Mode.SCHEDULED or policy.day is None:
        return None
    return next_run(policy.cadence, policy.day, at)


def block_account(policy: PayeePolicy, payout: Payout, code: str) -> None:
    """Send nothing more to the account of a payout that came back, if it is still the one in use."""
    if current_account(policy.organization_id) != payout.account:
        return
    policy.blocked_account = payout.account
    policy.blocked_reason = f"{code} on {payout.external_id}"
    policy.save(update_fields=["blocked_account", "blocked_reason"])


@transaction.atomic
def unblock_account(*, policy: PayeePolicy, actor: Actor, at: datetime, reason: str) -> PayeePolicy:
    """Let payouts go to the account again; an automatic payee is paid at the next tick."""
    actor.require(MANAGE)
    policy = lock_payee(policy.organization_id)
    if policy.blocked_account_id is None:
        raise StateConflict("No bank account of this payee is blocked.")
    blocked, policy.blocked_account, policy.blocked_reason = policy.blocked_reason, None, ""
    if policy.mode == Mode.AUTOMATIC:
        policy.due_at = at
    policy.save()
    _tell(policy, "payee_policy.unblocked", actor, at, blocked=blocked, reason=reason)
    return policy


@transaction.atomic
def wake_payee(*, organization_id: UUID, at: datetime) -> None:
    """Something an automatic payee waited for has come, such as a bank account: try at the next tick."""
    policy = lock_payee(organization_id)
    if policy.mode == Mode.AUTOMATIC:
        policy.due_at = at
        policy.save(update_fields=["due_at"])


def _check_schedule(mode: str, cadence: str, day: int | None, minimum_minor: int) -> None:
    errors = []
    if mode not in Mode.values:
        errors.append(FieldError("/mode", "unknown_mode", f"One of: {', '.join(Mode.values)}."))
    if mode == Mode.SCHEDULED:
        last = {"weekly": 7, "monthly": 31}.get(cadence)
        if last is None:
            errors.append(FieldError("/cadence", "unknown_cadence", "A schedule is weekly or monthly."))
        elif day is None or not 1 <= day <= last:
            errors.append(
                FieldError("/day", "day_out_of_range", f"A {cadence} schedule has a day 1 to {last}.")
            )
    elif cadence or day is not None:
        errors.append(FieldError("/cadence", "no_schedule", f"A policy {mode} has no cadence and no day."))
    if minimum_minor < 0:
        errors.append(FieldError("/minimum_minor", "amount_negative", "The minimum cannot be negative."))
    if errors:
        raise InvalidInput("This is not a payout policy.", errors=errors)


def _terms(policy: PayeePolicy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in ("mode", "cadence", "day", "minimum_minor")}


def _tell(policy: PayeePolicy, event: str, actor: Actor, at: datetime, **payload: Any) -> None:
    identity = {"organization_id": str(policy.organization_id)}
    append("payee_policy", policy.pk, event, identity | payload, at=at, actor=actor)

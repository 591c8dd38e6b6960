"""Which event types can be subscribed to, how a subscription names them (a type, a kind, or all), and who
may read what is told: whoever may read what it happened to."""

import re
from collections.abc import Iterable

from commerce.actor import Actor
from commerce.errors import FieldError, InvalidInput
from commerce.outbox import catalog

EVERYTHING = "*"
MOST_PATTERNS = 50
TEST = "webhook.test"
_PATTERN = re.compile(r"\*|[a-z][a-z0-9_]*\.(\*|[a-z][a-z0-9_]*)")
# By aggregate type the resource whose read scope a key needs, and the permission that a person needs.
# What is not here needs all of them.
_READERS = {
    "approval": ("approvals", "console.view_approval"),
    "billing_account": ("invoices", "billing.view_billingaccount"),
    "contract": ("contracts", "contracts.view_contract"),
    "invoice": ("invoices", "billing.view_invoice"),
    "ledger_period": ("ledger", "ledger.view_ledgerperiod"),
    "ledger_release": ("ledger", "ledger.view_ledgerrelease"),
    "modern_treasury.incoming_payment": ("wallets", "billing.view_payin"),
    "modern_treasury.payment_order": ("payouts", "payouts.view_payout"),
    "modern_treasury.return": ("payouts", "payouts.view_payout"),
    "offer": ("contracts", "contracts.view_offer"),
    "openmeter.invoice": ("invoices", "billing.view_invoice"),
    "organization": ("organizations", "parties.view_organization"),
    "pay_in": ("wallets", "billing.view_payin"),
    "payee_policy": ("payouts", "payouts.view_payeepolicy"),
    "payout": ("payouts", "payouts.view_payout"),
    "platform_terms": ("contracts", "contracts.view_platformterms"),
    "provider_reference": ("organizations", "parties.view_providerreference"),
    "reservation": ("contracts", "contracts.view_reservation"),
    "service": ("contracts", "contracts.view_serviceevent"),
    "settlement": ("settlements", "payouts.view_settlement"),
    "settlement_leg": ("settlements", "payouts.view_settlementleg"),
    "subscription": ("invoices", "billing.view_subscriptionsync"),
    "usage_batch": ("usage", "billing.view_usagebatch"),
}


def subscribable(*, platform: bool) -> list[catalog.EventType]:
    """Every type that the platform, or another organization, can hear of."""
    return [known for known in catalog.event_types() if platform or known.public]


def checked(patterns: Iterable[str], *, platform: bool) -> list[str]:
    """The patterns sorted, each once. InvalidInput names every one that no event could match."""
    given = list(patterns)
    known = [type_.name for type_ in subscribable(platform=platform)]
    if not 1 <= len(given) <= MOST_PATTERNS:
        raise InvalidInput(f"Subscribe to 1 to {MOST_PATTERNS} event types.", pointer="/event_types")
    errors = [
        FieldError(f"/event_types/{index}", "unknown_event_type", f"No event type matches {pattern[:80]!r}.")
        for index, pattern in enumerate(given)
        if not _PATTERN.fullmatch(pattern) or not any(matches(pattern, name) for name in known)
    ]
    if errors:
        raise InvalidInput("Some event types are not known.", errors=errors)
    return sorted(set(given))


def require_reading(actor: Actor, patterns: Iterable[str], *, platform: bool) -> None:
    """PermissionDenied unless the actor may read of everything that the patterns match today."""
    wanted = set(patterns)
    types = [
        known for known in subscribable(platform=platform) if not wanted.isdisjoint(patterns_of(known.name))
    ]
    for scope in sorted({scope for known in types for scope in scopes_of(known)}):
        actor.require_scope(scope)
    if actor.type != "api_key":
        for permission in sorted({permission for known in types for _, permission in _needed(known)}):
            actor.require(permission)


def open_to(actor: Actor) -> list[str]:
    """The types whose messages the actor may read, a test's among them."""
    return [TEST, *(known.name for known in catalog.event_types() if _is_open(known, actor))]


def is_all_open_to(actor: Actor, *, platform: bool) -> bool:
    """Whether the actor may read of everything that the platform, or another organization, can hear of."""
    return all(_is_open(known, actor) for known in subscribable(platform=platform))


def scopes_of(known: catalog.EventType) -> list[str]:
    """What a key needs to be told of a type."""
    return sorted({f"{resource}:read" for resource, _ in _needed(known)})


def _is_open(known: catalog.EventType, actor: Actor) -> bool:
    if actor.type == "api_key":
        return all(actor.has_scope(scope) for scope in scopes_of(known))
    return all(actor.has_perm(permission) for _, permission in _needed(known))


def _needed(known: catalog.EventType) -> Iterable[tuple[str, str]]:
    found = _READERS.get(known.aggregate_type)
    return [found] if found else _READERS.values()


def matches(pattern: str, type_: str) -> bool:
    return pattern in patterns_of(type_)


def patterns_of(type_: str) -> tuple[str, str, str]:
    """The subscriptions that a type answers to; the trigger on the events knows the same three."""
    return type_, f"{type_.partition('.')[0]}.*", EVERYTHING

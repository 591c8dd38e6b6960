"""Comparing what OpenMeter is going to bill with the contract, before there is an invoice.

Its items must be exactly those that are wanted now, and the running period must come to what our own
rating makes of it. What differs is noted with the reason that it has; a difference without one is a
question for a person, and the next comparison that finds none settles it.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F

from billing.models import SubscriptionSync
from billing.rules.drift import LONGEST_DELAY, reasons
from billing.rules.verification import Difference, compare, explained
from billing.services.batches import each
from billing.services.questions import settle_question
from billing.services.rating import rate
from billing.services.service import service_followed
from billing.services.subscriptions import (
    MARKER,
    cycle_of,
    cycle_since,
    followed_at,
    lag,
    line_of,
    sync_subscription,
    wanted_cards,
)
from billing.services.terms import RUNNING, owner_at, state_of
from billing.services.verification import minor_units_of
from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.errors import NotFound, Rejected
from commerce.outbox import append
from commerce.outbox.breaker import while_open
from commerce.providers import openmeter
from commerce.providers.openmeter import Subscription
from contracts.rules.fold import Edit, timeline
from contracts.rules.segments import periods_of
from contracts.rules.state import ContractState
from contracts.services import contract_edits

HORIZON = timedelta(days=800)

Json = dict[str, Any]


@dataclass(frozen=True)
class Drift:
    """What differed on one subscription; each row has `what` and the `reasons` that explain it."""

    sync: SubscriptionSync
    rows: list[Json]

    @property
    def unexpected(self) -> list[Json]:
        return [row for row in self.rows if not row["reasons"]]


def check_drift(*, sync_id: UUID | str, actor: Actor, at: datetime) -> Drift:
    """Compare, note what differs, and ask a person about what nothing explains. Changes no subscription.

    Called outside any transaction; raises what the provider's client raises.
    """
    return _noted(_compared(sync_id, at), actor=actor, at=at)


@transaction.atomic
def request_sync(*, sync: SubscriptionSync, actor: Actor, at: datetime) -> None:
    """Have the subscription brought in line and compared, by the worker that speaks to OpenMeter."""
    actor.require("billing.request_sync")
    append("subscription", sync.pk, "subscription.sync_requested", sync.event_payload(), at=at, actor=actor)


def resync(*, sync_id: UUID | str, actor: Actor, at: datetime) -> Drift:
    """`sync_subscription`, then `check_drift`."""
    sync = SubscriptionSync.objects.get(pk=sync_id)
    sync_subscription(contract_id=sync.contract_id, actor=actor, at=at)
    return check_drift(sync_id=sync.pk, actor=actor, at=at)


def check_due_drift(*, actor: Actor, at: datetime, limit: int = 50) -> int:
    """Compare the subscriptions that were not looked at for longest; return how many.

    What nothing explains is synced first: a person is asked about what is still there afterwards.
    """
    running = SubscriptionSync.objects.exclude(customer_id="").filter(ended_at=None)
    oldest = running.order_by(F("checked_at").asc(nulls_first=True)).values_list("pk", flat=True)
    return each(
        while_open(openmeter.NAME, oldest[:limit]),
        lambda id_: _check_due(id_, actor=actor, at=at),
        what="subscription",
        patience=5,
    )


def _check_due(sync_id: UUID, *, actor: Actor, at: datetime) -> Drift:
    drift = _compared(sync_id, at)
    if drift.unexpected:
        with suppress(Rejected):  # what OpenMeter refuses is one more thing that a person should see
            sync_subscription(contract_id=drift.sync.contract_id, actor=actor, at=at)
        drift = _compared(sync_id, at)
    return _noted(drift, actor=actor, at=at)


def _compared(sync_id: UUID | str, at: datetime) -> Drift:
    sync = SubscriptionSync.objects.select_related("contract").filter(pk=sync_id).first()
    if sync is None:
        raise NotFound("There is no such subscription.")
    return Drift(sync, list(_rows(sync, contract_edits(sync.contract_id), at)))


def _noted(drift: Drift, *, actor: Actor, at: datetime) -> Drift:
    with transaction.atomic():
        SubscriptionSync.objects.filter(pk=drift.sync.pk).update(drift=drift.rows, checked_at=at)
        _ask(drift, actor=actor, at=at)
    drift.sync.refresh_from_db()
    return drift


def _rows(sync: SubscriptionSync, edits: list[Edit], at: datetime) -> Iterator[Json]:
    state = state_of(edits, valid_at=at)
    behind = _behind(sync, edits, at)
    subscription = openmeter.client().subscription(sync.subscription_id) if sync.subscription_id else None
    runs = subscription is not None and subscription.status == "active"
    owner = owner_at(edits, at)
    due = state.status in RUNNING and (owner.buyer_id, owner.turn) == (sync.buyer_id, sync.turn)
    if due != runs:
        what = "it does not run at OpenMeter" if due else "it runs at OpenMeter, and the contract does not"
        yield _row(what, behind)
    if not due or subscription is None or not runs:
        return
    yield from (_row(what, behind) for what in _unlike(sync, subscription, edits, state, at))
    if state.billing.when == "in_arrears":
        yield from _money(sync, edits, state, at)


def _behind(sync: SubscriptionSync, edits: list[Edit], at: datetime) -> list[str]:
    newest = max((edit.seq for edit in edits if edit.effective_at <= at), default=0)
    missing = [edit for edit in edits if sync.applied_version < edit.seq <= newest]
    since = min((max(edit.effective_at, edit.recorded_at) for edit in missing), default=at)
    if not missing or at - since > LONGEST_DELAY:
        return []
    return [f"OpenMeter has followed up to seq {sync.applied_version} of {newest}"]


def _unlike(
    sync: SubscriptionSync, subscription: Subscription, edits: list[Edit], state: ContractState, at: datetime
) -> Iterator[str]:
    """In words: the items and the cycle that are not as they are wanted."""
    wanted = {card.key: card for card in wanted_cards(sync.contract_id, edits, at)}
    current = {item.key: item for item in subscription.current_items}
    charged = {item.key for item in subscription.items}
    for key, card in wanted.items():
        name = f"item {card.name} of line {line_of(key)}" if key != MARKER else "the marker"
        if key not in current:
            if card.cadence is not None or key not in charged:
                yield f"{name} is missing"
        elif card.cadence is not None and not current[key].bills_as(card):
            yield f"{name} has another price"
    for key, item in current.items():
        if key not in wanted and item.raw.get("billingCadence") is not None:
            yield f"item {item.name} ({key}) is billed and not wanted"
    for name, value in cycle_of(state).items():
        if subscription.metadata.get(name, value) != value:
            yield f"its {name.replace('_', ' ')} is {subscription.metadata[name]} and should be {value}"
    ends = [period.end for period in periods_of(timeline(edits), at, at + HORIZON)]
    if ends and subscription.period_end and subscription.period_end != ends[0] != state.end_at:
        yield f"its period ends {subscription.period_end:%-d %B %Y} and should end {ends[0]:%-d %B %Y}"


def _money(sync: SubscriptionSync, edits: list[Edit], state: ContractState, at: datetime) -> Iterator[Json]:
    """The running period as OpenMeter would bill it, against our rating of it."""
    owner = owner_at(edits, at)
    periods = periods_of(timeline(edits), at, at + HORIZON)
    if not periods:
        return
    start = max(periods[0].start, cycle_since(edits, at), owner.since)
    end = min(filter(None, (periods[0].end, owner.until, state.end_at)))
    rated = rate(sync.contract_id, edits, owner_epoch=owner.epoch, start=start, end=end, at=at)
    ours = [line for line in rated if line.kind != "one_off"]
    theirs = [
        (line_of(line.feature_key), minor_units_of(line.net, state.currency))
        for line in openmeter.client().gathering(sync.customer_id)
        if line.net and line.period_start < end and line.period_end > start
    ]
    found = compare(ours, theirs, lag=lag(sync.contract_id, start=start, end=end))
    if not found:
        return
    why = reasons(
        edits,
        start=start,
        end=end,
        followed=followed_at(sync.contract_id),
        at=at,
        kinds=[(line.line_id, line.kind) for line in ours],
        service=service_followed(sync.contract_id),
    )
    for difference in explained(found, why):
        yield _row(_said(difference, edits, at), list(difference.reasons)) | {
            "line_id": str(difference.line_id) if difference.line_id else None,
            "ours_minor": difference.ours,
            "theirs_minor": difference.theirs,
        }


def _said(difference: Difference, edits: list[Edit], at: datetime) -> str:
    line = state_of(edits, valid_at=at).lines.get(difference.line_id) if difference.line_id else None
    return f"the running period of {line.product_code if line else 'something that is no line'}"


def _row(what: str, why: list[str]) -> Json:
    return {"what": what, "reasons": why}


def _ask(drift: Drift, *, actor: Actor, at: datetime) -> None:
    contract, sync = drift.sync.contract, drift.sync
    if not drift.unexpected:
        settle_question("subscription_drift", sync, reason="It agrees with the contract now.", at=at)
        return
    open_review(
        kind="subscription_drift",
        subject_type="billing.subscriptionsync",
        subject_id=sync.pk,
        title=f"OpenMeter is going to bill {contract.number} otherwise than the contract says",
        detail="; ".join(row["what"] for row in drift.unexpected) + ".",
        evidence={"drift": drift.rows},
        actor=actor,
        at=at,
    )

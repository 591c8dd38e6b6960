"""Keeping OpenMeter's subscription in step with the contract.

Level-triggered: whatever event arrives, the items wanted now are computed from the contract as it is
now and compared with what OpenMeter has; an older event finds nothing to do. Versions do not tell
whether there is anything to do: an edit of the future is known long before it counts. One customer for
each owner of a contract, because OpenMeter runs one subscription per customer and a subscription keeps
its customer. Another anchor or cadence is another subscription. A free marker item keeps the phase from
becoming empty while a suspension or a trial leaves nothing to bill.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.models import Max
from django.utils import timezone

from billing.models import ServiceChange, SubscriptionChange, SubscriptionSync
from billing.rules.drift import LONGEST_DELAY
from billing.rules.items import items
from billing.services.rate_cards import ensure_feature, rate_card
from billing.services.service import note_service
from billing.services.terms import ENDED, RUNNING, next_ordinal, owner_at, state_of
from commerce.actor import Actor
from commerce.crash import crash_point
from commerce.errors import Rejected, Retryable
from commerce.parties.models import Organization
from commerce.parties.services import mark_reference_active, request_reference
from commerce.providers import openmeter
from commerce.providers.http import looks_first
from commerce.providers.openmeter import FlatFee, RateCard, Subscription
from contracts.models import Contract, ContractEdit
from contracts.rules.fold import Edit, timeline
from contracts.rules.periods import MONTHS, add_months, billing_period
from contracts.rules.segments import segments_of
from contracts.rules.state import ContractState
from contracts.services import contract_edits, line_service

MARKER = "contract"
START_TOLERANCE = timedelta(minutes=2)


@looks_first
def sync_subscription(*, contract_id: UUID | str, actor: Actor, at: datetime) -> SubscriptionSync | None:
    """Make OpenMeter bill what the contract says at `at`. Runs outside any transaction.

    Raises Retryable, Unknown or Rejected. Each step looks before it acts, so it may be run again; one at a
    time for a contract, because what another does meanwhile was not there to be seen.
    """
    with _alone(f"openmeter.sync:{contract_id}"):
        sync = _sync(contract_id, actor=actor, at=at)
        if sync is not None:
            note_service(contract_id=sync.contract_id, at=at)
        return sync


def follow_service(*, contract_id: UUID | str, actor: Actor, at: datetime) -> SubscriptionSync | None:
    """`sync_subscription` where a line is billed from service; no other changes with what its units do."""
    state = state_of(contract_edits(UUID(str(contract_id))), valid_at=at)
    if not any(line.bill_from == "in_service" for line in state.live_lines):
        return None
    return sync_subscription(contract_id=contract_id, actor=actor, at=at)


def _sync(contract_id: UUID | str, *, actor: Actor, at: datetime) -> SubscriptionSync | None:
    contract = Contract.objects.get(pk=contract_id)
    edits = contract_edits(contract.id)
    state = state_of(edits, valid_at=at)
    sync = _intend(contract, edits, state, at)
    for former in contract.subscription_syncs.filter(ended_at=None):
        if former != sync:
            _end_all(former)
    if sync is None:
        newest = contract.subscription_syncs.order_by("-owner_epoch").first()
        return newest and _record(newest, None, state.version, at=at)
    subscription = None
    if state.status in RUNNING or sync.customer_id:
        _prepare(settings.OPENMETER_BASE_URL, settings.PUBLIC_URL)
        _ensure_customer(sync, actor=actor, at=at)
        subscription = _end_all(sync) if state.status in ENDED else _follow(sync, edits, state, at)
    crash_point("billing.before_sync_recorded")
    return _record(sync, subscription, state.version, at=at)


@lru_cache(maxsize=4)
def _prepare(openmeter_url: str, public_url: str) -> None:
    """Once per process: our invoicing app, billing profile and webhook exist at OpenMeter.

    One process at a time, by a lock of the session: OpenMeter would let two make two of each.
    """
    if not settings.OPENMETER_WEBHOOK_SECRETS:
        raise Retryable("OPENMETER_WEBHOOK_SECRET is not set: OpenMeter could not sign what it tells us.")
    with _alone("openmeter.prepare"):
        openmeter.client().prepare(
            webhook_url=f"{public_url}/webhooks/openmeter/",
            signing_secret=settings.OPENMETER_WEBHOOK_SECRETS[0],
        )


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """By a lock of the session, which holds across transactions. Retryable when another has it for long."""
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
        except OperationalError as error:
            raise Retryable(f"Another worker is at {name}.") from error
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])


@transaction.atomic
def _intend(
    contract: Contract, edits: Sequence[Edit], state: ContractState, at: datetime
) -> SubscriptionSync | None:
    """Note which version is wanted, and the key of the customer, before anything is sent."""
    owner, syncs = owner_at(edits, at), contract.subscription_syncs.select_for_update()
    sync = syncs.filter(**owner.key).first()
    if sync is None:
        if state.status not in (*RUNNING, *ENDED) or (owner.epoch > 1 and state.status in ENDED):
            return None
        ordinal = next_ordinal(contract.subscription_syncs.all())
        sync = contract.subscription_syncs.create(
            **owner.key, owner_epoch=ordinal, customer_key=customer_key(contract.id, ordinal)
        )
    sync.desired_version = max(sync.desired_version, state.version)
    sync.save(update_fields=["desired_version"])
    return sync


def customer_key(contract_id: UUID, owner_epoch: int) -> str:
    """OpenMeter's customer of a contract's owner; the first owner's is the contract alone."""
    return f"contract-{contract_id}" if owner_epoch == 1 else f"contract-{contract_id}:{owner_epoch}"


def _ensure_customer(sync: SubscriptionSync, *, actor: Actor, at: datetime) -> None:
    if sync.customer_id:
        return
    contract = sync.contract
    buyer = Organization.objects.get(pk=sync.buyer_id)
    reference = request_reference(
        organization=buyer, provider="openmeter", kind="customer", reference=sync.customer_key, at=at
    )
    crash_point("billing.before_customer")
    customer = openmeter.client().ensure_customer(
        key=sync.customer_key,
        name=f"{buyer.name} {contract.number}",
        currency=contract.currency,
        metadata={"contract_id": str(contract.id), "organization_id": str(buyer.pk)},
    )
    crash_point("billing.after_customer")
    with transaction.atomic():
        sync.customer_id = customer.id
        sync.save(update_fields=["customer_id"])
        mark_reference_active(reference=reference, provider_id=customer.id, actor=actor, at=at)


def _follow(
    sync: SubscriptionSync, edits: Sequence[Edit], state: ContractState, at: datetime
) -> Subscription:
    """The subscription of this cycle, with the items that are wanted; those of other cycles end."""
    client = openmeter.client()
    running = [one for one in _subscriptions(sync) if one.status != "inactive"]
    fitting = next((one for one in running if _same_cycle(one, state)), None)
    for other in running:
        if other is not fitting:
            _cancel(other)
    if fitting is None:
        fitting = _create(sync, edits, state, at, first=not running)
    elif fitting.status == "canceled":
        client.unschedule_cancelation(fitting.id)
    full = client.subscription(fitting.id)
    if full is None:
        raise Retryable(f"Subscription {fitting.id} is listed and not found.")
    if _edit(full, state, wanted_cards(sync.contract_id, edits, at)):
        full = client.subscription(fitting.id) or full
    return full


def _subscriptions(sync: SubscriptionSync) -> list[Subscription]:
    """The contract's subscriptions of one owner, oldest first, by the metadata they were created with."""
    found = openmeter.client().subscriptions(sync.customer_key)
    mine = [one for one in found if one.metadata.get("contract_id") == str(sync.contract_id)]
    return sorted(mine, key=lambda one: (one.active_from, one.id))


def cycle_of(state: ContractState) -> dict[str, str]:
    """What a subscription cannot change: it goes into its metadata, which cannot change either."""
    return {"anchor_day": str(state.billing.anchor_day), "cadence": state.billing.cadence}


def _same_cycle(subscription: Subscription, state: ContractState) -> bool:
    wanted = cycle_of(state)
    return all(subscription.metadata.get(name, value) == value for name, value in wanted.items())


def _create(
    sync: SubscriptionSync, edits: Sequence[Edit], state: ContractState, at: datetime, *, first: bool
) -> Subscription:
    """It begins when its cycle did, unless OpenMeter refuses so early a start or another has just ended."""
    contract, client = sync.contract, openmeter.client()
    begin = max(cycle_since(edits, at), contract.start_at)
    cards = wanted_cards(contract.id, edits, at)
    for card in cards[1:]:
        ensure_feature(state, card)
    crash_point("billing.before_subscription")
    subscription = client.create_subscription(
        customer_key=sync.customer_key,
        name=contract.number,
        currency=contract.currency,
        rate_cards=cards,
        metadata={
            "contract_id": str(contract.id),
            "contract_number": contract.number,
            "owner_epoch": str(sync.owner_epoch),
            **cycle_of(state),
        },
        timing=begin if first and begin >= at - START_TOLERANCE else "immediate",
        billing_anchor=_anchor(state, begin),
        cadence=state.billing.cadence,
    )
    crash_point("billing.after_subscription")
    return subscription


def cycle_since(edits: Sequence[Edit], at: datetime) -> datetime:
    """Since when the contract has run, at `at`, for the same owner and in the same cycle."""
    since, before = at, None
    for step in timeline(edits):
        if step.at > at:
            break
        now = step.state.status in RUNNING and (step.state.owner_epoch, tuple(cycle_of(step.state).values()))
        if now != before:
            since, before = step.at, now
    return since


def _anchor(state: ContractState, begin: datetime) -> datetime:
    """The start of a billing period on the anchor day itself: one that was clamped would stay clamped."""
    cadence = state.billing.cadence
    anchor = state.period(begin).full_start
    for back in range(12):
        moved = add_months(anchor, -back * MONTHS[cadence])
        moved = billing_period(state.billing.anchor_day, moved, moved, cadence).full_start
        if moved.day == state.billing.anchor_day and moved <= anchor:
            return moved
    return anchor


def wanted_cards(contract_id: UUID, edits: Sequence[Edit], at: datetime) -> list[RateCard]:
    """The marker, and a rate card for each line that OpenMeter is to bill at `at`.

    What is charged once belongs to the subscription in whose time it falls, and to none after it.
    """
    state = state_of(edits, valid_at=at)
    serving, just = {}, at + timedelta(microseconds=1)
    if any(line.bill_from == "in_service" for line in state.live_lines):
        service = line_service(contract_id, at=at)
        serving = {
            line.line_id: sum(span.quantity for span in service.in_service(line.line_id, at, just))
            for line in state.live_lines
        }
    wanted = items(state, serving)
    if any(item.kind == "once" for item in wanted):
        since = cycle_since(edits, at)
        before = {s.line_id for s in segments_of(timeline(edits), just) if s.valid_from < since}
        wanted = [item for item in wanted if item.kind != "once" or item.line_id not in before]
    marker = FlatFee(key=MARKER, name="Contract", amount=None, cadence=state.billing.cadence)
    return [marker, *(rate_card(item, state.billing) for item in wanted)]


def _edit(subscription: Subscription, state: ContractState, cards: Sequence[RateCard]) -> bool:
    """Remove items that are no longer wanted or cost something else, add what is missing.

    What is charged once has been charged when its item was added: it stays as it is.
    """
    current = {item.key: item for item in subscription.current_items}
    wanted = {card.key: card for card in cards}
    once = {card.key for card in cards if card.cadence is None}
    charged = {item.key for item in subscription.items if item.key in once}
    remove = [
        key
        for key, item in current.items()
        if key != MARKER and key not in charged and (key not in wanted or not item.bills_as(wanted[key]))
    ]
    add = [
        card for key, card in wanted.items() if key not in charged and (key not in current or key in remove)
    ]
    if not remove and not add:
        return False
    for card in add:
        ensure_feature(state, card)
    crash_point("billing.before_edit")
    openmeter.client().edit_subscription(subscription.id, remove=remove, add=add)
    crash_point("billing.after_edit")
    return True


def _end_all(sync: SubscriptionSync) -> Subscription | None:
    """End what runs of one owner; the newest of its subscriptions, or None."""
    found = _subscriptions(sync)
    for subscription in found:
        _cancel(subscription)
    newest = openmeter.client().subscription(found[-1].id) if found else None
    if newest and sync.ended_at != newest.active_to:
        SubscriptionSync.objects.filter(pk=sync.pk).update(
            subscription_id=newest.id, ended_at=newest.active_to
        )
    return newest


def _cancel(subscription: Subscription) -> None:
    if subscription.status in ("inactive", "canceled"):
        return
    crash_point("billing.before_cancel")
    openmeter.client().cancel_subscription(subscription.id, timing="immediate")
    crash_point("billing.after_cancel")


@transaction.atomic
def _record(
    sync: SubscriptionSync, subscription: Subscription | None, version: int, *, at: datetime
) -> SubscriptionSync:
    """Remember how far OpenMeter is, and when each edit that counts by now reached it."""
    row = SubscriptionSync.objects.select_for_update().get(pk=sync.pk)
    if subscription is not None:
        if subscription.metadata.get("contract_id") != str(row.contract_id):
            raise Rejected(f"Subscription {subscription.id} is not one of contract {row.contract_id}.")
        row.subscription_id = subscription.id
        row.ended_at = subscription.active_to
    recorded = SubscriptionChange.objects.filter(contract_id=row.contract_id).values("version")
    edits = ContractEdit.objects.filter(
        contract_id=row.contract_id, seq__lte=version, effective_at__lte=at
    ).exclude(seq__in=recorded)
    SubscriptionChange.objects.bulk_create(
        [
            SubscriptionChange(
                contract_id=row.contract_id,
                version=edit.seq,
                summary=edit.operation.replace("_", " "),
                effective_at=edit.effective_at,
                applied_at=at,
            )
            for edit in edits
        ],
        ignore_conflicts=True,
    )
    row.applied_version = max(row.applied_version, version)
    row.desired_version = max(row.desired_version, row.applied_version)
    row.customer_id = sync.customer_id
    row.synced_at = timezone.now()
    row.save()
    return row


def lag(contract_id: UUID, *, start: datetime, end: datetime) -> timedelta:
    """The longest that an edit, or a unit in service, of [start, end) took to reach OpenMeter.

    Only what the relay may take counts. An edit that came later than that was back-dated, or OpenMeter
    was away: that is a difference which somebody should see.
    """
    when = {"contract_id": contract_id, "effective_at__gte": start, "effective_at__lt": end}
    changes: list[SubscriptionChange | ServiceChange] = [
        *SubscriptionChange.objects.filter(**when),
        *ServiceChange.objects.filter(**when),
    ]
    delays = (change.applied_at - change.effective_at for change in changes)
    return max((delay for delay in delays if timedelta(0) < delay <= LONGEST_DELAY), default=timedelta(0))


def followed_at(contract_id: UUID) -> dict[int, datetime]:
    """When OpenMeter took each edit over, by its number in the contract's log."""
    changes = SubscriptionChange.objects.filter(contract_id=contract_id)
    return dict(changes.values_list("version", "applied_at"))


def line_of(key: str) -> UUID | None:
    """The contract line of an item's key, or None for an item that is not a line's."""
    found = re.fullmatch("line_([0-9a-f]{32})", key)
    return UUID(found[1]) if found else None


def is_behind(contract_id: UUID) -> bool:
    """Whether OpenMeter has not followed the newest edit yet."""
    newest = ContractEdit.objects.filter(contract_id=contract_id).aggregate(newest=Max("seq"))["newest"]
    syncs = SubscriptionSync.objects.filter(contract_id=contract_id)
    applied = syncs.aggregate(applied=Max("applied_version"))["applied"]
    return applied is not None and applied < (newest or 0)

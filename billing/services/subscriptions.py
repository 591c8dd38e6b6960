"""Keeping OpenMeter's subscription in step with the contract.

Level-triggered: whatever event arrives, the desired items are computed from the contract as it is
now and compared with what OpenMeter has; an older event finds nothing to do. Versions do not tell
whether there is anything to do: an edit of the future is known long before it counts. One customer per
contract, because OpenMeter runs one subscription per customer. A free marker item keeps the phase
from becoming empty while a suspension has stopped billing.
"""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max
from django.utils import timezone

from billing.models import SubscriptionChange, SubscriptionSync
from billing.services.terms import ENDED, RUNNING, contract_state, live_since
from commerce.actor import Actor
from commerce.crash import crash_point
from commerce.errors import Rejected, Retryable
from commerce.parties.services import mark_reference_active, request_reference
from commerce.providers import openmeter
from commerce.providers.http import looks_first
from commerce.providers.openmeter import Feature, FlatFee, Meter, RateCard, Subscription, UnitPrice, UsageFee
from contracts.models import Contract, ContractEdit
from contracts.rules.periods import billing_period
from contracts.rules.state import ContractState, LineState
from contracts.services import contract_edits

MARKER = FlatFee(key="contract", name="Contract", amount=None)
START_TOLERANCE = timedelta(minutes=2)
LONGEST_DELAY = timedelta(minutes=15)


@looks_first
def sync_subscription(*, contract_id: UUID | str, actor: Actor, at: datetime) -> SubscriptionSync | None:
    """Make OpenMeter bill what the contract says at `at`. Runs outside any transaction.

    Raises Retryable, Unknown or Rejected. Each step looks before it acts, so it may be run again.
    """
    sync, state = _intend(contract_id, at)
    if sync is None:
        return None
    subscription, client = None, openmeter.client()
    if state.status in RUNNING or sync.customer_id:
        _prepare(settings.OPENMETER_BASE_URL, settings.PUBLIC_URL)
        _ensure_customer(sync, actor=actor, at=at)
        subscription = _find(sync)
        if state.status in ENDED:
            subscription = _end(subscription)
        elif subscription is None:
            subscription = _create(sync, state, at)
        else:
            _edit(subscription, state)
        if subscription is not None:
            subscription = client.subscription(subscription.id)
    crash_point("billing.before_sync_recorded")
    return _record(sync, subscription, state.version, at=at)


@lru_cache(maxsize=4)
def _prepare(openmeter_url: str, public_url: str) -> None:
    """Once per process: our invoicing app, billing profile and webhook exist at OpenMeter.

    One process at a time, by a lock of the session: OpenMeter would let two make two of each.
    """
    if not settings.OPENMETER_WEBHOOK_SECRETS:
        raise Retryable("OPENMETER_WEBHOOK_SECRET is not set: OpenMeter could not sign what it tells us.")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('openmeter.prepare', 0))")
        try:
            openmeter.client().prepare(
                webhook_url=f"{public_url}/webhooks/openmeter/",
                signing_secret=settings.OPENMETER_WEBHOOK_SECRETS[0],
            )
        finally:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended('openmeter.prepare', 0))")


@transaction.atomic
def _intend(contract_id: UUID | str, at: datetime) -> tuple[SubscriptionSync | None, ContractState]:
    """Note which version is wanted, and the key of the customer, before anything is sent."""
    contract = Contract.objects.get(pk=contract_id)
    state = contract_state(contract.id, valid_at=at)
    sync = SubscriptionSync.objects.select_for_update().filter(contract=contract).first()
    if sync is None:
        if state.status not in (*RUNNING, *ENDED):
            return None, state
        sync = SubscriptionSync.objects.create(contract=contract, customer_key=f"contract-{contract.id}")
    sync.desired_version = max(sync.desired_version, state.version)
    sync.save(update_fields=["desired_version"])
    return sync, state


def _ensure_customer(sync: SubscriptionSync, *, actor: Actor, at: datetime) -> None:
    if sync.customer_id:
        return
    contract = sync.contract
    reference = request_reference(
        organization=contract.buyer, provider="openmeter", kind="customer", reference=sync.customer_key, at=at
    )
    crash_point("billing.before_customer")
    customer = openmeter.client().ensure_customer(
        key=sync.customer_key,
        name=f"{contract.buyer.name} {contract.number}",
        currency=contract.currency,
        metadata={"contract_id": str(contract.id), "organization_id": str(contract.buyer_id)},
    )
    crash_point("billing.after_customer")
    with transaction.atomic():
        sync.customer_id = customer.id
        sync.save(update_fields=["customer_id"])
        mark_reference_active(reference=reference, provider_id=customer.id, actor=actor, at=at)


def _find(sync: SubscriptionSync) -> Subscription | None:
    """The contract's subscription, found by the metadata it was created with."""
    client = openmeter.client()
    if sync.subscription_id:
        return client.subscription(sync.subscription_id)
    for found in client.subscriptions(sync.customer_key):
        if found.metadata.get("contract_id") == str(sync.contract_id):
            return client.subscription(found.id)
    return None


def _create(sync: SubscriptionSync, state: ContractState, at: datetime) -> Subscription:
    contract, client = sync.contract, openmeter.client()
    for line in state.live_lines:
        _ensure_feature(line)
    begin = max(live_since(contract_edits(contract.id)) or at, contract.start_at)
    period = billing_period(state.billing.anchor_day, contract.start_at, begin)
    crash_point("billing.before_subscription")
    subscription = client.create_subscription(
        customer_key=sync.customer_key,
        name=contract.number,
        currency=contract.currency,
        rate_cards=[MARKER, *_rate_cards(state)],
        metadata={"contract_id": str(contract.id), "contract_number": contract.number},
        timing=begin if begin >= at - START_TOLERANCE else "immediate",
        billing_anchor=period.full_start,
    )
    crash_point("billing.after_subscription")
    return subscription


def _edit(subscription: Subscription, state: ContractState) -> None:
    """Remove items that are no longer wanted or cost something else, add what is missing."""
    current = {item.key: item for item in subscription.current_items}
    wanted = {card.key: card for card in _rate_cards(state)}
    remove = [
        key
        for key, item in current.items()
        if key != MARKER.key and (key not in wanted or not item.bills_as(wanted[key]))
    ]
    add = [card for key, card in wanted.items() if key not in current or key in remove]
    if not remove and not add:
        return
    for line in state.live_lines:
        if item_key(line.line_id) in {card.key for card in add}:
            _ensure_feature(line)
    crash_point("billing.before_edit")
    openmeter.client().edit_subscription(subscription.id, remove=remove, add=add)
    crash_point("billing.after_edit")


def _end(subscription: Subscription | None) -> Subscription | None:
    if subscription is None or subscription.status in ("inactive", "canceled"):
        return subscription
    crash_point("billing.before_cancel")
    ended = openmeter.client().cancel_subscription(subscription.id, timing="immediate")
    crash_point("billing.after_cancel")
    return ended


@transaction.atomic
def _record(
    sync: SubscriptionSync, subscription: Subscription | None, version: int, *, at: datetime
) -> SubscriptionSync:
    """Remember how far OpenMeter is, and when each edit that counts by now reached it."""
    row = SubscriptionSync.objects.select_for_update().get(pk=sync.pk)
    if subscription is not None:
        if row.subscription_id and row.subscription_id != subscription.id:
            raise Rejected(f"Contract {row.contract_id} has two subscriptions at OpenMeter.")
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
    row.customer_id = sync.customer_id
    row.synced_at = timezone.now()
    row.save()
    return row


def lag(contract_id: UUID, *, start: datetime, end: datetime) -> timedelta:
    """The longest that an edit effective in [start, end) took to reach OpenMeter.

    Only what the relay may take counts. An edit that came later than that was back-dated, or OpenMeter
    was away: that is a difference which somebody should see.
    """
    changes = SubscriptionChange.objects.filter(
        contract_id=contract_id, effective_at__gte=start, effective_at__lt=end
    )
    delays = (change.applied_at - change.effective_at for change in changes)
    return max((delay for delay in delays if timedelta(0) < delay <= LONGEST_DELAY), default=timedelta(0))


def item_key(line_id: UUID) -> str:
    """The key of a line's item: letters and digits only, as OpenMeter wants them."""
    return f"line_{line_id.hex}"


def line_of(key: str) -> UUID | None:
    """The contract line of an item's key, or None for an item that is not a line's."""
    found = re.fullmatch("line_([0-9a-f]{32})", key)
    return UUID(found[1]) if found else None


def _rate_cards(state: ContractState) -> list[RateCard]:
    """What is to be billed now: nothing for a line whose billing is stopped."""
    if state.status not in RUNNING:
        return []
    return [_rate_card(line) for line in state.lines.values() if line.quantity and state.bills(line)]


def _rate_card(line: LineState) -> RateCard:
    key = item_key(line.line_id)
    if line.kind == "usage":
        return UsageFee(key=key, name=line.product_code, price=UnitPrice(line.price.rate))
    return FlatFee(
        key=key, name=line.product_code, amount=line.price.rate * Decimal(line.quantity), feature_key=key
    )


def _ensure_feature(line: LineState) -> None:
    """The feature ties an invoice line to ours; a usage price's has a meter that counts this line only."""
    client, key = openmeter.client(), item_key(line.line_id)
    if line.kind != "usage":
        client.ensure_feature(Feature(key=key, name=line.product_code))
        return
    client.ensure_meter(
        Meter(
            slug=line.meter,
            event_type=line.meter,
            value_property="$.quantity",
            group_by={"line_id": "$.line_id"},
        )
    )
    client.ensure_feature(
        Feature(key=key, name=line.product_code, meter_slug=line.meter, filters={"line_id": line.line_id.hex})
    )


def is_behind(contract_id: UUID) -> bool:
    """Whether OpenMeter has not followed the newest edit yet."""
    newest = ContractEdit.objects.filter(contract_id=contract_id).aggregate(newest=Max("seq"))["newest"]
    sync = SubscriptionSync.objects.filter(pk=contract_id).first()
    return sync is not None and sync.applied_version < (newest or 0)

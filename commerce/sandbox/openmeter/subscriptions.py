"""Subscriptions from custom plans: create, read, edit, cancel, unschedule, change, delete.

A status is computed, never stored. Items are versions with an active interval; editing closes one and
opens another, which is what billing prorates by. Named plans, add-ons and migration are not simulated.
"""

from datetime import datetime, timedelta
from typing import Any

from commerce.sandbox.clock import iso, parse
from commerce.sandbox.core import Sandbox
from commerce.sandbox.openmeter import billing
from commerce.sandbox.openmeter.base import (
    bad,
    change,
    compact,
    create,
    fetch,
    instant,
    live,
    one_of,
    page,
    public,
    required,
    router,
    subscription_error,
)
from commerce.sandbox.openmeter.cards import check_card
from commerce.sandbox.openmeter.catalogue import find_customer, running
from commerce.sandbox.openmeter.rating import CADENCES, add_duration, period_at
from commerce.sandbox.store import Row
from commerce.sandbox.web import ApiError, Request, Response

TOLERANCE = timedelta(minutes=2)


def status(sandbox: Sandbox, row: Row) -> str:
    now = sandbox.now()
    ends = parse(row["activeTo"]) if row.get("activeTo") else None
    if row.get("deletedAt") or (ends and ends <= now):
        return "inactive"
    if parse(row["activeFrom"]) > now:
        return "scheduled"
    return "canceled" if ends else "active"


@router.post("/api/v1/subscriptions")
def create_subscription(sandbox: Sandbox, request: Request) -> Response:
    body = request.body()
    if "customPlan" not in body:
        required(body, "plan")
        raise ApiError(404, "not_found", f"plan {body['plan'].get('key')} not found")
    if not (body.get("customerId") or body.get("customerKey")):
        raise bad("customerId or customerKey is required")
    customer = find_customer(sandbox, body.get("customerId") or body["customerKey"])
    starts = _start(sandbox, body.get("timing", "immediate"))
    if running(sandbox, customer["id"]):
        code = "only_single_subscription_allowed_per_customer_at_a_time"
        raise subscription_error(409, code, "customer already has a subscription")
    row = _subscribe(sandbox, customer, body["customPlan"], starts, body.get("billingAnchor"))
    return Response(201, _plain(sandbox, row))


def _start(sandbox: Sandbox, timing: Any) -> datetime:
    if timing == "immediate":
        return sandbox.now()
    if timing == "next_billing_cycle":
        raise bad("next_billing_cycle is not supported when creating a subscription")
    starts = parse(instant(timing, "timing"))
    if starts < sandbox.now() - TOLERANCE:
        raise bad(f"timing {timing} is in the past")
    return starts


def _subscribe(sandbox: Sandbox, customer: Row, plan: Row, starts: datetime, anchor: str | None) -> Row:
    required(plan, "name", "currency", "billingCadence", "phases")
    one_of(plan, "billingCadence", CADENCES)
    if customer.get("currency", plan["currency"]) != plan["currency"]:
        raise bad(f"currency mismatch: customer has {customer['currency']}, plan has {plan['currency']}")
    prorating = plan.get("proRatingConfig") or {"enabled": True, "mode": "prorate_prices"}
    row = create(
        sandbox,
        "subscription",
        name=plan["name"],
        description=plan.get("description"),
        metadata=plan.get("metadata") or {},
        activeFrom=iso(starts),
        customerId=customer["id"],
        currency=plan["currency"],
        costBasisMode="dynamic",
        costBasisPins=[],
        billingCadence=plan["billingCadence"],
        proRatingConfig=prorating,
        billingAnchor=iso(parse(instant(anchor, "billingAnchor"))) if anchor else iso(starts),
        settlementMode=plan.get("settlementMode", "credit_then_invoice"),
        annotations={},
        _phases=_phases(sandbox, plan, starts),
    )
    if not customer.get("currency"):
        change(sandbox, "customer", customer, currency=plan["currency"])
    billing.watch(sandbox, row)
    return row


def _phases(sandbox: Sandbox, plan: Row, starts: datetime) -> list[Row]:
    phases, at, asked = [], starts, plan["phases"]
    for number, phase in enumerate(asked):
        required(phase, "key", "name")
        if "duration" not in phase or (phase["duration"] is None) != (number == len(asked) - 1):
            raise bad(f"phase {phase['key']}: duration must be null on the last phase, and only there")
        if not phase.get("rateCards"):
            raise bad(f"phase {phase['key']}: at least one rate card is required")
        ends = _after(at, phase["duration"]) if phase["duration"] else None
        items = [_item(sandbox, card, plan["billingCadence"], at, ends) for card in phase["rateCards"]]
        keys = [item["key"] for item in items]
        if len(set(keys)) < len(keys):
            raise bad(f"phase {phase['key']}: rate card keys must be unique")
        now = sandbox.stamp()
        head = {"id": sandbox.ulid(), "createdAt": now, "updatedAt": now, "key": phase["key"]}
        bounds = compact({"activeFrom": iso(at), "activeTo": iso(ends) if ends else None})
        phases.append({**head, "name": phase["name"], **bounds, "_items": items})
        at = ends or at
    return phases


def _after(at: datetime, duration: str) -> datetime:
    try:
        return add_duration(at, duration)
    except ValueError as error:
        raise bad(str(error)) from None


def _item(sandbox: Sandbox, card: Any, cadence: str, starts: datetime, ends: datetime | None) -> Row:
    check_card(sandbox, card, cadence)
    now = sandbox.stamp()
    return compact(
        {
            "id": sandbox.ulid(),
            "createdAt": now,
            "updatedAt": now,
            "key": card["key"],
            "name": card["name"],
            "activeFrom": iso(starts),
            "activeTo": iso(ends) if ends else None,
            "_rateCard": card,
        }
    )


@router.get("/api/v1/subscriptions/{id}")
def get_subscription(sandbox: Sandbox, request: Request) -> Response:
    if "at" in request.query:
        raise ApiError(501, "not_implemented", "")
    return Response(200, expanded(sandbox, fetch(sandbox, "subscription", request.params["id"])))


@router.get("/api/v1/customers/{id}/subscriptions")
def list_subscriptions(sandbox: Sandbox, request: Request) -> Response:
    customer = find_customer(sandbox, request.params["id"])
    rows = [row for row in live(sandbox, "subscription") if row["customerId"] == customer["id"]]
    if wanted := request.many("status"):
        rows = [row for row in rows if status(sandbox, row) in wanted]
    rows.sort(key=lambda row: parse(row["activeFrom"]), reverse=request.one("order", "ASC") == "DESC")
    return page(request, [_plain(sandbox, row) for row in rows])


def _plain(sandbox: Sandbox, row: Row) -> Row:
    at = max(sandbox.now(), parse(row["activeFrom"]))
    start, end = period_at(parse(row["billingAnchor"]), row["billingCadence"], at)
    period = {"from": iso(max(start, parse(row["activeFrom"]))), "to": iso(end)}
    alignment = {"billablesMustAlign": True, "currentAlignedBillingPeriod": period}
    return {**public(row), "status": status(sandbox, row), "alignment": alignment}


def expanded(sandbox: Sandbox, row: Row) -> Row:
    """With phases, their current items, and the timeline of every item's versions."""
    phases = []
    for phase in row["_phases"]:
        phase = _until(phase, row)
        timelines: dict[str, list[Row]] = {}
        for item in phase["_items"]:
            timelines.setdefault(item["key"], []).append(_item_view(row, _until(item, row)))
        shown = [_shown(sandbox, phase, versions) for versions in timelines.values()]
        items = [item for item in shown if item]
        phases.append({**public(phase), "items": items, "itemTimelines": timelines})
    return {**_plain(sandbox, row), "phases": phases}


def _until(part: Row, subscription: Row) -> Row:
    """A phase or item does not outlive its subscription."""
    ends = [row["activeTo"] for row in (part, subscription) if row.get("activeTo")]
    return {**part, "activeTo": min(ends, key=parse)} if ends else part


def _item_view(row: Row, item: Row) -> Row:
    card = item["_rateCard"]
    more = {name: card.get(name) for name in ("featureKey", "discounts", "taxConfig")}
    priced = {"billingCadence": card["billingCadence"], "price": card["price"]}
    return {**public(item), "currency": row["currency"], **compact(more), **priced}


def _shown(sandbox: Sandbox, phase: Row, versions: list[Row]) -> Row | None:
    """Of a running phase the active version, of a past one the last, of a future one the first."""
    now = sandbox.now()
    if parse(phase["activeFrom"]) > now:
        return versions[0]
    if phase.get("activeTo") and parse(phase["activeTo"]) <= now:
        return versions[-1]
    running = [item for item in versions if parse(item["activeFrom"]) <= now and _active(item, now)]
    return running[0] if running else None


def _allow(sandbox: Sandbox, row: Row, action: str, *states: str) -> None:
    current = status(sandbox, row)
    if current not in states:
        message = f"forbidden error: transition {action} in state {current} not allowed"
        raise ApiError(403, "forbidden", message)


@router.patch("/api/v1/subscriptions/{id}")
def edit_subscription(sandbox: Sandbox, request: Request) -> Response:
    row, body = fetch(sandbox, "subscription", request.params["id"]), request.body()
    _allow(sandbox, row, "update", "active")
    required(body, "customizations")
    timing = body.get("timing", "immediate")
    if timing not in ("immediate", "next_billing_cycle"):
        raise bad("timing must be immediate or next_billing_cycle")
    at = sandbox.now() if timing == "immediate" else _next_boundary(sandbox, row)
    for operation in body["customizations"]:
        required(operation, "op")
        row = _apply(sandbox, row, operation, at)
    row = change(sandbox, "subscription", row)
    _log(sandbox, row, "edit", [operation["op"] for operation in body["customizations"]])
    billing.watch(sandbox, row)
    return Response(200, _plain(sandbox, row))


def _apply(sandbox: Sandbox, row: Row, operation: Row, at: datetime) -> Row:
    if operation["op"] not in ("add_item", "remove_item"):
        one_of(
            operation,
            "op",
            ("add_item", "remove_item", "add_phase", "remove_phase", "stretch_phase", "unschedule_edit"),
        )
        raise ApiError(501, "not_implemented", "")
    required(operation, "phaseKey")
    phase = next((p for p in row["_phases"] if p["key"] == operation["phaseKey"]), None)
    if phase is None:
        raise bad(f"phase {operation['phaseKey']} not found")
    if phase.get("activeTo") and parse(phase["activeTo"]) <= at:
        raise ApiError(403, "forbidden", f"phase {phase['key']} has ended at {phase['activeTo']}")
    at = max(at, parse(phase["activeFrom"]))
    add = operation["op"] == "add_item"
    items = _add(sandbox, row, phase, operation, at) if add else _remove(phase, operation, at)
    phases = [{**p, "_items": items} if p["id"] == phase["id"] else p for p in row["_phases"]]
    return {**row, "_phases": phases}


def _active(item: Row, at: datetime) -> bool:
    return not item.get("activeTo") or parse(item["activeTo"]) > at


def _add(sandbox: Sandbox, row: Row, phase: Row, operation: Row, at: datetime) -> list[Row]:
    ends = parse(phase["activeTo"]) if phase.get("activeTo") else None
    item = _item(sandbox, operation.get("rateCard"), row["billingCadence"], at, ends)
    if any(other["key"] == item["key"] and _active(other, at) for other in phase["_items"]):
        code = "only_single_subscription_item_allowed_at_a_time"
        raise subscription_error(409, code, f"item {item['key']} already exists in phase {phase['key']}")
    return [*phase["_items"], item]


def _remove(phase: Row, operation: Row, at: datetime) -> list[Row]:
    required(operation, "itemKey")
    mine = [item for item in phase["_items"] if item["key"] == operation["itemKey"] and _active(item, at)]
    if not mine:
        raise bad(f"item {operation['itemKey']} not found in phase {phase['key']}")
    kept = []
    for item in phase["_items"]:
        if item not in mine:
            kept.append(item)
        elif parse(item["activeFrom"]) < at:
            kept.append({**item, "activeTo": iso(at)})
    return kept


def _next_boundary(sandbox: Sandbox, row: Row) -> datetime:
    return period_at(parse(row["billingAnchor"]), row["billingCadence"], sandbox.now())[1]


def _cancel_at(sandbox: Sandbox, row: Row, timing: Any) -> datetime:
    if timing == "immediate":
        return sandbox.now()
    if timing == "next_billing_cycle":
        return _next_boundary(sandbox, row)
    at = parse(instant(timing, "timing"))
    if at < sandbox.now():
        raise bad(f"timing {timing} is in the past")
    if period_at(parse(row["billingAnchor"]), row["billingCadence"], at)[0] != at:
        raise bad(f"timing {timing} must be on a billing period boundary")
    return at


@router.post("/api/v1/subscriptions/{id}/cancel")
def cancel_subscription(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "subscription", request.params["id"])
    if not request.raw:
        raise bad("request body is required")
    _allow(sandbox, row, "cancel", "active")
    row = _end(sandbox, row, _cancel_at(sandbox, row, request.body().get("timing", "immediate")))
    _log(sandbox, row, "cancel")
    return Response(200, _plain(sandbox, row))


def _end(sandbox: Sandbox, row: Row, at: datetime) -> Row:
    row = change(sandbox, "subscription", row, activeTo=iso(at))
    billing.watch(sandbox, row)
    return row


@router.post("/api/v1/subscriptions/{id}/unschedule-cancelation")
def unschedule_cancelation(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "subscription", request.params["id"])
    _allow(sandbox, row, "unschedule_cancelation", "canceled")
    row = change(sandbox, "subscription", row, activeTo=None)
    _log(sandbox, row, "unschedule_cancelation")
    billing.watch(sandbox, row)
    return Response(200, _plain(sandbox, row))


@router.post("/api/v1/subscriptions/{id}/change")
def change_subscription(sandbox: Sandbox, request: Request) -> Response:
    """Cancel and create at the same instant: a new id, the old anchor unless another is given."""
    row, body = fetch(sandbox, "subscription", request.params["id"]), request.body()
    required(body, "timing", "customPlan")
    _allow(sandbox, row, "change", "active")
    at = _cancel_at(sandbox, row, body["timing"])
    current = _end(sandbox, row, at)
    customer = fetch(sandbox, "customer", row["customerId"])
    anchor = body.get("billingAnchor") or row["billingAnchor"]
    following = _subscribe(sandbox, customer, body["customPlan"], at, anchor)
    links = {"subscription.superseding.id": following["id"]}, {"subscription.previous.id": current["id"]}
    current = change(sandbox, "subscription", current, annotations=links[0])
    following = change(sandbox, "subscription", following, annotations=links[1])
    _log(sandbox, current, "change")
    return Response(200, {"current": _plain(sandbox, current), "next": expanded(sandbox, following)})


@router.delete("/api/v1/subscriptions/{id}")
def delete_subscription(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "subscription", request.params["id"])
    _allow(sandbox, row, "delete", "scheduled")
    change(sandbox, "subscription", row, deletedAt=sandbox.stamp())
    _log(sandbox, row, "delete")
    return Response(204)


def _log(sandbox: Sandbox, row: Row, action: str, operations: list[str] | None = None) -> None:
    entry = {"at": iso(sandbox.now()), "subscription_id": row["id"], "action": action}
    contract = row["metadata"].get("contract_id")
    sandbox.store.put(
        "om.subscription_log",
        {**entry, "contract_id": contract, "operations": operations or []},
        f"{sandbox.store.count('order'):012d}",
    )

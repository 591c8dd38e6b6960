"""The control API: clock, webhooks, faults, effects, and accidents on request.

Effects are what really happened at the provider, listed and counted by the caller's own reference, so
that a test can say *exactly once* without looking into our tables.
"""

from collections import Counter
from typing import Any

from commerce.sandbox import faults, webhooks
from commerce.sandbox.clock import ClockBackwards, iso, parse
from commerce.sandbox.core import SETTINGS, Sandbox
from commerce.sandbox.modern_treasury import base as mt
from commerce.sandbox.modern_treasury import payments
from commerce.sandbox.openmeter import subscriptions
from commerce.sandbox.openmeter.base import amount
from commerce.sandbox.store import Row
from commerce.sandbox.web import ApiError, Request, Response, Router

router = Router()

MT_FIELDS = {
    "counterparty": ("id", "external_id", "name", "metadata"),
    "external_account": ("id", "external_id", "counterparty_id", "metadata"),
    "virtual_account": ("id", "name", "counterparty_id", "metadata"),
    "payment_order": ("id", "external_id", "amount", "currency", "direction", "status", "metadata"),
    "incoming_payment_detail": ("id", "virtual_account_id", "amount", "currency", "status"),
    "return": ("id", "returnable_id", "returnable_type", "code", "amount", "status"),
}
REFERENCES = {
    "counterparty": "external_id",
    "external_account": "external_id",
    "virtual_account": "name",
    "payment_order": "external_id",
    "customer": "key",
    "subscription": "contract_id",
    "payment_status": "invoice_id",
    "issuing_synchronized": "invoice_id",
    "usage_event": "id",
}


@router.get("/health")
def health(simulator: Any, request: Request) -> Response:
    return Response(200, {"status": "ok", "now": iso(simulator.sandbox.clock.now())})


@router.get("/clock")
def read_clock(simulator: Any, request: Request) -> Response:
    return Response(200, {"now": iso(simulator.sandbox.clock.now())})


@router.post("/clock")
def move_clock(simulator: Any, request: Request) -> Response:
    """Forward through all that is due. `deliver` also delivers the webhooks of each step before the next."""
    body = request.body()
    try:
        to = parse(body.get("now", ""))
    except (TypeError, ValueError) as error:
        raise ApiError(422, "invalid_instant", f"now: {error}") from None
    between = simulator.courier.flush if body.get("deliver") else None
    try:
        fired = simulator.sandbox.advance(to, between)
    except ClockBackwards as error:
        raise ApiError(409, "clock_backwards", str(error)) from None
    return Response(200, {"now": iso(simulator.sandbox.clock.now()), "fired": fired})


@router.post("/settle")
def settle(simulator: Any, request: Request) -> Response:
    """Finish every step that waits for a fraction of a real second."""
    return Response(200, {"fired": simulator.sandbox.settle()})


@router.post("/flush")
def flush(simulator: Any, request: Request) -> Response:
    """Settle, then attempt every queued webhook now."""
    simulator.sandbox.settle()
    return Response(200, simulator.courier.flush())


@router.get("/webhooks")
def read_webhooks(simulator: Any, request: Request) -> Response:
    counters = simulator.sandbox.store.table("counter")
    counts = {
        name: counters.get(f"webhooks_{name}", {"value": 0})["value"]
        for name in ("delivered", "lost", "given_up")
    }
    answer = {"policy": webhooks.policy(simulator.sandbox), "pending": simulator.courier.pending(), **counts}
    return Response(200, {**answer, "attempts": list(simulator.courier.log)})


@router.post("/webhooks")
def set_policy(simulator: Any, request: Request) -> Response:
    """What is left out keeps its value."""
    body, sandbox = request.body(), simulator.sandbox
    if unknown := set(body) - set(webhooks.POLICY):
        raise ApiError(422, "invalid", f"unknown policy: {', '.join(sorted(unknown))}")
    with sandbox.lock:
        sandbox.store.put("policy", {**(sandbox.store.get("policy", "webhooks") or {}), **body}, "webhooks")
        sandbox.store.commit()
    return Response(200, webhooks.policy(sandbox))


@router.get("/faults")
def list_faults(simulator: Any, request: Request) -> Response:
    return Response(200, simulator.sandbox.store.rows("fault"))


@router.post("/faults")
def add_fault(simulator: Any, request: Request) -> Response:
    with simulator.sandbox.lock:
        rule = faults.add(simulator.sandbox, request.body())
        simulator.sandbox.store.commit()
    return Response(201, rule)


@router.delete("/faults")
def clear_faults(simulator: Any, request: Request) -> Response:
    with simulator.sandbox.lock:
        faults.clear(simulator.sandbox)
        simulator.sandbox.store.commit()
    return Response(204)


@router.post("/settings")
def change_settings(simulator: Any, request: Request) -> Response:
    """step_ms: real time of a payment order's hop; return_business_days: when 100XX comes back."""
    body, sandbox = request.body(), simulator.sandbox
    if unknown := set(body) - set(SETTINGS):
        raise ApiError(422, "invalid", f"unknown setting: {', '.join(sorted(unknown))}")
    with sandbox.lock:
        row = sandbox.store.put(
            "settings", {**SETTINGS, **(sandbox.store.get("settings", "settings") or {}), **body}, "settings"
        )
        sandbox.store.commit()
    return Response(200, row)


@router.get("/requests")
def list_requests(simulator: Any, request: Request) -> Response:
    return Response(200, simulator.sandbox.requests)


@router.post("/reset")
def reset(simulator: Any, request: Request) -> Response:
    """Forget everything but the clock and what was already handed out as an id."""
    simulator.reset(request.body().get("seed"))
    return Response(200, {"status": "ok"})


@router.post("/modern-treasury/payment-orders/{id}/return")
def return_payment_order(simulator: Any, request: Request) -> Response:
    """By id or external_id."""
    code = request.body().get("code", "R03")
    return _payment_order(
        simulator.sandbox, request, lambda sandbox, row: payments.give_back(sandbox, row, code)
    )


@router.post("/modern-treasury/payment-orders/{id}/fail")
def fail_payment_order(simulator: Any, request: Request) -> Response:
    return _payment_order(simulator.sandbox, request, payments.fail)


def _payment_order(sandbox: Sandbox, request: Request, change: Any) -> Response:
    with sandbox.lock:
        wanted = request.params["id"]
        rows = [
            row for row in sandbox.store.rows("mt.payment_order") if wanted in (row["id"], row["external_id"])
        ]
        if not rows:
            raise ApiError(404, "resource_not_found", f"There is no payment order {wanted}.")
        try:
            row = change(sandbox, rows[-1])
            sandbox.store.commit()
        except BaseException:
            sandbox.store.rollback()
            raise
        return Response(200, mt.view(row))


@router.post("/openmeter/overcharge")
def overcharge(simulator: Any, request: Request) -> Response:
    """The next `count` fitting lines are billed `amount` too much: {"amount", "item_key"?, "customer"?}."""
    body, sandbox = request.body(), simulator.sandbox
    amount(body.get("amount"), "amount", signed=True)
    with sandbox.lock:
        row = {
            "id": sandbox.ulid(),
            "amount": body["amount"],
            "item_key": body.get("item_key", ""),
            "customer": body.get("customer", ""),
            "left": int(body.get("count", 1)),
        }
        sandbox.store.put("om.overcharge", row)
        sandbox.store.commit()
    return Response(201, row)


@router.get("/effects")
def effects(simulator: Any, request: Request) -> Response:
    sandbox: Sandbox = simulator.sandbox
    with sandbox.lock:
        happened = {"modern_treasury": _modern_treasury(sandbox), "openmeter": _openmeter(sandbox)}
    counts = {
        f"{provider}.{kind}": Counter(reference for row in rows if (reference := _reference(kind, row)))
        for provider, kinds in happened.items()
        for kind, rows in kinds.items()
        if kind in REFERENCES
    }
    return Response(200, {**happened, "counts": counts})


def _reference(kind: str, row: Row) -> str:
    """How the caller names it; a virtual account has no external_id, so metadata may hold one."""
    if kind == "virtual_account" and row["metadata"].get("reference"):
        return str(row["metadata"]["reference"])
    return str(row[REFERENCES[kind]] or "")


def _modern_treasury(sandbox: Sandbox) -> dict[str, list[Row]]:
    return {
        kind: [{field: row.get(field) for field in fields} for row in sandbox.store.rows(mt.table(kind))]
        for kind, fields in MT_FIELDS.items()
    }


def _openmeter(sandbox: Sandbox) -> dict[str, list[Row]]:
    customers = sandbox.store.table("om.customer")
    invoice_log = sandbox.store.rows("om.invoice_log")
    return {
        "customer": [
            {"id": row["id"], "key": row.get("key"), "name": row["name"]} for row in customers.values()
        ],
        "subscription": [
            {
                "id": row["id"],
                "contract_id": row["metadata"].get("contract_id"),
                "metadata": row["metadata"],
                "customer_key": customers[row["customerId"]].get("key"),
                "status": subscriptions.status(sandbox, row),
                "active_from": row["activeFrom"],
                "active_to": row.get("activeTo"),
            }
            for row in sandbox.store.rows("om.subscription")
        ],
        "subscription_change": sandbox.store.rows("om.subscription_log"),
        "usage_event": [_usage_event(row) for row in sandbox.store.rows("om.event")],
        "invoice": [_invoice(row) for row in sandbox.store.rows("om.invoice")],
        "issuing_synchronized": [row for row in invoice_log if row["action"] == "issuing_synchronized"],
        "payment_status": [row for row in invoice_log if row["action"] == "payment_status"],
    }


def _usage_event(row: Row) -> Row:
    event = {name: row["event"][name] for name in ("id", "source", "type", "subject", "time")}
    return {**event, "validation_error": row.get("validationError", "")}


def _invoice(row: Row) -> Row:
    return {
        "id": row["id"],
        "number": row["number"],
        "customer_key": row["customer"].get("key"),
        "state": row["_state"],
        "total": row["totals"]["total"],
        "period": row["period"],
    }

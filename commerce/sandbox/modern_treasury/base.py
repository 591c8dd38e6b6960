"""What all Modern Treasury resources share: envelopes, validation, lists, events.

Rows are kept as they are answered, plus private keys that begin with an underscore (a full account
number, for instance) which `view` takes out.
"""

import os
from datetime import date, datetime
from typing import Any

from commerce.sandbox import webhooks
from commerce.sandbox.clock import iso
from commerce.sandbox.core import Sandbox
from commerce.sandbox.store import Row
from commerce.sandbox.web import ApiError, Request, Response, Router

router = Router()

PAYMENT_TYPES = (
    "ach", "au_becs", "bacs", "book", "card", "chats", "check", "cross_border", "dk_nets", "eft", "gb_fps",
    "masav", "mx_ccen", "neft", "nics", "nz_becs", "pl_elixir", "rtp", "se_bankgirot", "sepa", "sg_giro",
    "sic", "stablecoin", "wire", "zengin",
)  # fmt: skip
ORGANIZATION_ID = "3a5f1c0e-5f0b-4a53-9c39-8a4b5f1d2e10"
Rules = dict[str, Any]


def refusal(error: ApiError) -> Response:
    errors = {"code": error.code, "message": error.detail, "parameter": error.parameter}
    return Response(error.status, {"errors": {k: v for k, v in errors.items() if v is not None}})


def invalid(parameter: str, message: str, code: str = "parameter_invalid") -> ApiError:
    return ApiError(422, code, message, parameter=parameter)


def checked(body: dict[str, Any], rules: Rules, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of `rules` in `body`; a rule is a type, or a tuple of the values allowed."""
    for name in required:
        if body.get(name) in (None, ""):
            raise invalid(name, f"{name} is required.", "parameter_missing")
    known = {name: body[name] for name in rules if body.get(name) is not None}
    for name, value in known.items():
        _check(name, value, rules[name])
    return known


def _check(name: str, value: Any, rule: Any) -> None:
    if isinstance(rule, tuple):
        if value not in rule:
            raise invalid(name, f"{name} must be one of {', '.join(rule)}.")
    elif rule in (date, datetime):
        try:
            (date if rule is date else datetime).fromisoformat(value)
        except (TypeError, ValueError):
            raise invalid(name, f"{name} is not a valid {rule.__name__}.") from None
    elif rule == "metadata":
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise invalid(name, "metadata must map strings to strings.")
    elif not isinstance(value, rule) or (rule is int and isinstance(value, bool)):
        raise invalid(name, f"{name} must be of type {rule.__name__}.")


def new(sandbox: Sandbox, kind: str, **fields: Any) -> Row:
    now = seconds(sandbox)
    head = {"id": sandbox.uuid(), "object": kind, "live_mode": False, "created_at": now, "updated_at": now}
    return {**head, **fields}


def seconds(sandbox: Sandbox) -> str:
    return iso(sandbox.now().replace(microsecond=0))


def today(sandbox: Sandbox) -> str:
    return sandbox.now().date().isoformat()


def table(kind: str) -> str:
    return f"mt.{kind}"


def save(sandbox: Sandbox, row: Row) -> Row:
    return sandbox.store.put(table(row["object"]), row)


def change(sandbox: Sandbox, row: Row, **fields: Any) -> Row:
    return save(sandbox, {**row, **fields, "updated_at": seconds(sandbox)})


def fetch(sandbox: Sandbox, kind: str, identity: str) -> Row:
    """The object of a path, or 404."""
    row = sandbox.store.get(table(kind), identity)
    if row is None or row.get("discarded_at"):
        raise ApiError(404, "resource_not_found", f"There is no {kind} with id {identity}.", parameter="id")
    return row


def refer(sandbox: Sandbox, kind: str, identity: str, parameter: str) -> Row:
    """The object a body refers to, or 422 naming the parameter."""
    row = sandbox.store.get(table(kind), identity)
    if row is None or row.get("discarded_at"):
        raise invalid(parameter, f"There is no {kind} with id {identity}.")
    return row


def view(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: view(inner) for name, inner in value.items() if not name.startswith("_")}
    if isinstance(value, list):
        return [view(inner) for inner in value]
    return value


def listed(request: Request, rows: list[Row], filters: tuple[str, ...] = ()) -> Response:
    """Newest first, filtered by equality and by metadata[key], a page behind X-After-Cursor."""
    rows = [row for row in reversed(rows) if not row.get("discarded_at")]
    for name in filters:
        if name in request.query:
            rows = [row for row in rows if str(row.get(name)) == request.one(name)]
    for name, values in request.query.items():
        if name.startswith("metadata[") and name.endswith("]"):
            rows = [row for row in rows if row.get("metadata", {}).get(name[9:-1]) == values[-1]]
    try:
        size = int(request.one("per_page", "25"))
    except ValueError:
        raise invalid("per_page", "per_page must be an integer.") from None
    if not 1 <= size <= 100:
        raise invalid("per_page", "per_page must be between 1 and 100.")
    cursor = request.one("after_cursor")
    if cursor:
        ids = [row["id"] for row in rows]
        if cursor not in ids:
            raise invalid("after_cursor", "after_cursor is not a cursor of this list.")
        rows = rows[ids.index(cursor) + 1 :]
    headers = {"X-Per-Page": str(size)}
    if len(rows) > size:
        headers["X-After-Cursor"] = rows[size - 1]["id"]
    return Response(200, [view(row) for row in rows[:size]], headers)


def between(request: Request, rows: list[Row], field: str, lower: str, upper: str) -> list[Row]:
    """Rows whose date or instant lies in the bounds of the query, both inclusive, by day."""
    start, end = request.one(lower)[:10], request.one(upper)[:10]
    return [row for row in rows if start <= (row[field] or "")[:10] <= (end or "9999")]


def emit(sandbox: Sandbox, topic: str, event: str, data: Row) -> None:
    """Record an event and queue its webhook."""
    data = view(data)
    row = new(sandbox, "event", resource=topic, event_name=event, data=data, entity_id=data["id"])
    row["event_time"] = sandbox.stamp()
    save(sandbox, row)
    organization = os.environ.get("MODERN_TREASURY_ORGANIZATION_ID", "") or ORGANIZATION_ID
    headers = {
        "X-Topic": topic,
        "X-Webhook-ID": sandbox.uuid(),
        "X-Event-ID": row["id"],
        "X-Event-Time": row["event_time"],
        "X-Live-Mode": "false",
        "X-Organization-ID": organization,
    }
    url = webhooks.policy(sandbox)["modern_treasury_url"]
    webhooks.enqueue(sandbox, "modern_treasury", url, {"event": event, "data": data}, **headers)

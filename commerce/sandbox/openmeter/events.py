"""Usage events in, meters out. Deduplicated by source and id; processed as they come."""

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from commerce.sandbox.clock import iso, parse
from commerce.sandbox.core import Sandbox
from commerce.sandbox.openmeter.base import bad, instant, live, required, router
from commerce.sandbox.openmeter.catalogue import find_meter, subjects
from commerce.sandbox.store import Row
from commerce.sandbox.web import Request, Response

SINGLE, BATCH, EITHER = (
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/json",
)
WINDOWS = {"MINUTE": timedelta(minutes=1), "HOUR": timedelta(hours=1), "DAY": timedelta(days=1)}


@router.post("/api/v1/events")
def ingest(sandbox: Sandbox, request: Request) -> Response:
    """204 does not mean metered: what matches nothing carries a validationError in the list."""
    kind, body = request.headers.get("content-type", ""), request.json()
    if kind not in (SINGLE, BATCH, EITHER):
        raise bad(f"invalid content type: {kind}")
    if (kind == SINGLE and isinstance(body, list)) or (kind == BATCH and not isinstance(body, list)):
        raise bad("the body does not fit the content type")
    events = [_checked(event) for event in (body if isinstance(body, list) else [body])]
    customers, meters = live(sandbox, "customer"), live(sandbox, "meter")
    for event in events:
        key = f"{event['source']}\n{event['id']}"
        if sandbox.store.get("om.event", key):
            sandbox.store.count("duplicate_events")
            continue
        now = iso(sandbox.now())
        event = {"time": now, **event}
        row = {"event": event, "ingestedAt": now, "storedAt": now}
        owner = next((c for c in customers if event["subject"] in subjects(c)), None)
        if owner:
            row["customerId"] = owner["id"]
        if error := _validation_error(event, meters, owner):
            row["validationError"] = error
        sandbox.store.put("om.event", row, key)
    return Response(204)


def _checked(event: Any) -> Row:
    if not isinstance(event, dict):
        raise bad("an event must be a JSON object")
    required(event, "id", "source", "specversion", "type", "subject")
    for name in ("id", "source", "specversion", "type", "subject"):
        if not isinstance(event[name], str):
            raise bad(f"{name} must be a string")
    if event.get("time") is not None:
        instant(event["time"], "time")
    if event.get("data") is not None and not isinstance(event["data"], dict):
        raise bad("data must be a JSON object")
    return {name: value for name, value in event.items() if value is not None}


def _validation_error(event: Row, meters: list[Row], owner: Row | None) -> str:
    mine = [meter for meter in meters if meter["eventType"] == event["type"]]
    if not mine:
        return f"no meter found for event type: {event['type']}"
    for meter in mine:
        if meter["aggregation"] != "COUNT" and _value(meter, event) is None:
            return f"invalid event: {meter['valueProperty']} is not a number"
    return "" if owner else f"no customer found for event subject: {event['subject']}"


@router.get("/api/v1/events")
def list_events(sandbox: Sandbox, request: Request) -> Response:
    rows = list(reversed(sandbox.store.rows("om.event")))
    if wanted := request.one("id"):
        rows = [row for row in rows if wanted in row["event"]["id"]]
    if wanted := request.one("subject"):
        rows = [row for row in rows if wanted in row["event"]["subject"]]
    if customers := request.many("customerId"):
        rows = [row for row in rows if row.get("customerId") in customers]
    if start := request.one("from"):
        rows = [row for row in rows if parse(row["event"]["time"]) >= parse(instant(start, "from"))]
    if end := request.one("to"):
        rows = [row for row in rows if parse(row["event"]["time"]) <= parse(instant(end, "to"))]
    return Response(200, rows[: int(request.one("limit", "100"))])


@router.get("/api/v2/events")
def list_events_v2(sandbox: Sandbox, request: Request) -> Response:
    """Cursor pages; `filter` is JSON: {"id": {"$eq": "..."}, "source": {"$in": [...]}}."""
    try:
        wanted = json.loads(request.one("filter", "{}"))
    except ValueError:
        raise bad("filter is not valid JSON") from None
    rows = [row for row in reversed(sandbox.store.rows("om.event")) if _fits(row, wanted)]
    ids = [f"{row['event']['source']}\n{row['event']['id']}" for row in rows]
    if cursor := request.one("cursor"):
        if cursor not in ids:
            raise bad("invalid cursor")
        rows = rows[ids.index(cursor) + 1 :]
    limit = int(request.one("limit", "100"))
    answer: Row = {"items": rows[:limit]}
    if len(rows) > limit:
        last = rows[limit - 1]["event"]
        answer["nextCursor"] = f"{last['source']}\n{last['id']}"
    return Response(200, answer)


def _fits(row: Row, wanted: Row) -> bool:
    for name, operators in wanted.items():
        value = row.get("customerId") if name == "customerId" else row["event"].get(name)
        if not _matches(value, operators):
            return False
    return True


def _matches(value: Any, operators: Any) -> bool:
    if not isinstance(operators, dict):
        return bool(value == operators)
    checks = {
        "$eq": lambda wanted: value == wanted,
        "$ne": lambda wanted: value != wanted,
        "$in": lambda wanted: value in wanted,
        "$nin": lambda wanted: value not in wanted,
        "$like": lambda wanted: str(wanted).strip("%") in str(value),
        "$gt": lambda wanted: str(value) > str(wanted),
        "$gte": lambda wanted: str(value) >= str(wanted),
        "$lt": lambda wanted: str(value) < str(wanted),
        "$lte": lambda wanted: str(value) <= str(wanted),
    }
    if unknown := set(operators) - set(checks):
        raise bad(f"unknown filter operator {min(unknown)}")
    return all(checks[name](wanted) for name, wanted in operators.items())


@router.get("/api/v1/meters/{id}/query")
def query_meter(sandbox: Sandbox, request: Request) -> Response:
    filters = {
        name[14:-1]: values for name, values in request.query.items() if name.startswith("filterGroupBy[")
    }
    given = {name: request.one(name) for name in ("from", "to", "windowSize") if request.one(name)}
    wanted = {"subject": request.many("subject"), "filterCustomerId": request.many("filterCustomerId")}
    query = {**given, **wanted, "groupBy": request.many("groupBy"), "filterGroupBy": filters}
    return Response(200, _query(sandbox, find_meter(sandbox, request.params["id"]), query))


@router.post("/api/v1/meters/{id}/query")
def query_meter_by_body(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, _query(sandbox, find_meter(sandbox, request.params["id"]), request.body()))


def _query(sandbox: Sandbox, meter: Row, query: Row) -> Row:
    start = parse(instant(query["from"], "from")) if query.get("from") else None
    end = parse(instant(query["to"], "to")) if query.get("to") else None
    names = list(query.get("groupBy") or [])
    if query.get("windowSize") not in (None, *WINDOWS):
        raise bad(f"windowSize must be one of {', '.join(WINDOWS)}")
    size = WINDOWS.get(query.get("windowSize", ""))
    if unknown := set(names) - {"subject", "customerId"} - set(meter.get("groupBy") or {}):
        raise bad(f"the meter does not group by {min(unknown)}")
    filters = {
        key: {"$in": [value] if isinstance(value, str) else value}
        for key, value in (query.get("filterGroupBy") or {}).items()
    }
    buckets: dict[tuple, list[Row]] = defaultdict(list)
    for row in _events(sandbox, meter, start, end, filters):
        event, owner = row["event"], row.get("customerId")
        if query.get("subject") and event["subject"] not in query["subject"]:
            continue
        if query.get("filterCustomerId") and owner not in query["filterCustomerId"]:
            continue
        window = _window(parse(event["time"]), size) if size else None
        special = {"subject": event["subject"], "customerId": owner}
        group = tuple(special[name] if name in special else _group(meter, event, name) for name in names)
        buckets[window, group].append(event)
    data = []
    for (window, group), events in sorted(buckets.items(), key=str):
        named = dict(zip(names, group, strict=True))
        data.append(
            {
                "value": float(_aggregate(meter, events)),
                "windowStart": iso(window or start or parse(events[0]["time"])),
                "windowEnd": iso(window + size if window and size else end or sandbox.now()),
                "subject": named.pop("subject", None),
                "groupBy": named,
            }
        )
    return {**{name: query[name] for name in ("from", "to", "windowSize") if query.get(name)}, "data": data}


def _window(at: datetime, size: timedelta) -> datetime:
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (at - midnight) // size * size


def usage(sandbox: Sandbox, customer: Row, feature: Row, start: datetime, end: datetime) -> Decimal:
    """What a customer used of a feature in [start, end)."""
    meter = find_meter(sandbox, feature["meterSlug"])
    filters = {name: {"$eq": value} for name, value in (feature.get("meterGroupByFilters") or {}).items()}
    filters |= feature.get("advancedMeterGroupByFilters") or {}
    mine = subjects(customer)
    rows = _events(sandbox, meter, start, end, filters)
    return _aggregate(meter, [row["event"] for row in rows if row["event"]["subject"] in mine])


def _events(
    sandbox: Sandbox, meter: Row, start: datetime | None, end: datetime | None, filters: Row
) -> Iterable[Row]:
    for row in sandbox.store.table("om.event").values():
        event = row["event"]
        if event["type"] != meter["eventType"]:
            continue
        at = parse(event["time"])
        if (start and at < start) or (end and at >= end):
            continue
        if meter["aggregation"] != "COUNT" and _value(meter, event) is None:
            continue
        if all(_matches(_group(meter, event, name), operators) for name, operators in filters.items()):
            yield row


def _aggregate(meter: Row, events: list[Row]) -> Decimal:
    kind = meter["aggregation"]
    if kind == "COUNT":
        return Decimal(len(events))
    if kind == "UNIQUE_COUNT":
        return Decimal(len({str(_property(event, meter["valueProperty"])) for event in events}))
    values = [value for event in events if (value := _value(meter, event)) is not None]
    if not values:
        return Decimal(0)
    if kind == "LATEST":
        return max(zip([parse(event["time"]) for event in events], values, strict=True))[1]
    if kind == "AVG":
        return sum(values, Decimal(0)) / len(values)
    return {"SUM": sum(values, Decimal(0)), "MIN": min(values), "MAX": max(values)}[kind]


def _value(meter: Row, event: Row) -> Decimal | None:
    value = _property(event, meter["valueProperty"])
    if meter["aggregation"] == "UNIQUE_COUNT":
        return Decimal(1) if value is not None else None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and not isinstance(value, bool) else None


def _group(meter: Row, event: Row, name: str) -> str | None:
    value = _property(event, (meter.get("groupBy") or {}).get(name, "$." + name))
    return None if value is None else str(value)


def _property(event: Row, path: str) -> Any:
    value: Any = event.get("data") or {}
    for part in path.removeprefix("$").strip(".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value

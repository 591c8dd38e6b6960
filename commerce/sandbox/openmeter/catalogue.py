"""Customers, meters, features, apps and billing profiles.

A fresh install has the Sandbox app as default, which marks every invoice paid by itself, exactly the
trap the real one sets.
"""

import re
from datetime import UTC, datetime
from typing import Any

from commerce.sandbox.clock import parse
from commerce.sandbox.core import Sandbox
from commerce.sandbox.openmeter.base import (
    bad,
    change,
    create,
    fetch,
    live,
    one_of,
    ordered,
    page,
    public,
    required,
    router,
)
from commerce.sandbox.openmeter.rating import add_duration
from commerce.sandbox.store import Row
from commerce.sandbox.web import ApiError, Request, Response

AGGREGATIONS = ("SUM", "COUNT", "UNIQUE_COUNT", "AVG", "MIN", "MAX", "LATEST")
KEY = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
FINAL = ("paid", "voided", "uncollectible", "deleted")
WORKFLOW: dict[str, dict[str, Any]] = {
    "collection": {"alignment": {"type": "subscription"}, "interval": "PT1H"},
    "invoicing": {
        "autoAdvance": True,
        "draftPeriod": "P0D",
        "dueAfter": "P30D",
        "progressiveBilling": True,
        "subscriptionEndProrationMode": "bill_actual_period",
    },
    "payment": {"collectionMethod": "charge_automatically"},
    "tax": {"enabled": True, "enforced": False},
}


def seed(sandbox: Sandbox) -> None:
    if sandbox.store.rows("om.app"):
        return
    app = _install(sandbox, "sandbox", "Sandbox")
    apps = dict.fromkeys(("tax", "invoicing", "payment"), app["id"])
    supplier = {"name": "Sandbox", "addresses": [{"country": "US"}]}
    create(sandbox, "profile", name="Default", supplier=supplier, apps=apps, default=True, workflow=WORKFLOW)


def find_customer(sandbox: Sandbox, identity: str) -> Row:
    """By id or key; a deleted one found by id is 412."""
    known = sandbox.store.get("om.customer", identity)
    if known and not known.get("deletedAt"):
        return known
    for row in sandbox.store.table("om.customer").values():
        if row.get("key") == identity and not row.get("deletedAt"):
            return row
    if known:
        raise ApiError(412, "precondition_failed", f"customer {identity} is deleted")
    raise ApiError(404, "not_found", f"customer with id {identity} not found")


def subjects(customer: Row) -> set[str]:
    """Every event subject that is this customer: id, key, subject keys."""
    keys = (customer.get("usageAttribution") or {}).get("subjectKeys", [])
    return {customer["id"], *keys} | ({customer["key"]} if customer.get("key") else set())


@router.post("/api/v1/customers")
def create_customer(sandbox: Sandbox, request: Request) -> Response:
    fields = _customer_fields(sandbox, request.body())
    return Response(201, create(sandbox, "customer", **fields))


@router.put("/api/v1/customers/{id}")
def update_customer(sandbox: Sandbox, request: Request) -> Response:
    """A full replace: what is left out is cleared, except currency and primaryEmail."""
    row = find_customer(sandbox, request.params["id"])
    fields = _customer_fields(sandbox, request.body(), row)
    before, after = (_subject_keys(version) for version in (row, fields))
    if before != after and sorted(before) == sorted(after) and running(sandbox, row["id"]):
        raise bad("cannot change subject keys for customer with active subscriptions")
    cleared = dict.fromkeys(("key", "description", "metadata", "billingAddress", "usageAttribution"))
    return Response(200, change(sandbox, "customer", row, **{**cleared, **fields}))


def _subject_keys(row: Row) -> list[str]:
    return list((row.get("usageAttribution") or {}).get("subjectKeys", []))


def _customer_fields(sandbox: Sandbox, body: Row, current: Row | None = None) -> Row:
    names = (
        "name", "key", "description", "metadata", "usageAttribution", "primaryEmail", "currency",
        "billingAddress",
    )  # fmt: skip
    fields = {name: body[name] for name in names if body.get(name) is not None}
    required(fields, "name")
    if not fields.get("key") and not _subject_keys(fields):
        raise bad("key or usageAttribution.subjectKeys is required")
    if not re.fullmatch("[A-Z]{3}", fields.get("currency", "USD")):
        raise bad("currency must be a fiat ISO 4217 code")
    mine = {fields.get("key"), *_subject_keys(fields)} - {None}
    for other in live(sandbox, "customer"):
        if current and other["id"] == current["id"]:
            continue
        if taken := mine & (subjects(other) - {other["id"]}):
            raise ApiError(
                409, "conflict", f"customer with key or subject {min(map(str, taken))} already exists"
            )
    return fields


@router.get("/api/v1/customers")
def list_customers(sandbox: Sandbox, request: Request) -> Response:
    """key, name and primaryEmail match partially and without case, so they are no identity."""
    rows = live(sandbox, "customer")
    for name in ("key", "name", "primaryEmail"):
        if wanted := request.one(name).lower():
            rows = [row for row in rows if wanted in str(row.get(name, "")).lower()]
    if wanted := request.one("subject"):
        rows = [row for row in rows if wanted in subjects(row)]
    return page(request, ordered(request, rows, "name", ("id", "name", "createdAt")))


@router.get("/api/v1/customers/{id}")
def get_customer(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, find_customer(sandbox, request.params["id"]))


@router.delete("/api/v1/customers/{id}")
def delete_customer(sandbox: Sandbox, request: Request) -> Response:
    row = find_customer(sandbox, request.params["id"])
    if running(sandbox, row["id"]):
        raise bad("customer has active subscriptions")
    invoices = [i for i in sandbox.store.rows("om.invoice") if i["customer"]["id"] == row["id"]]
    if any(invoice["_state"].split(".")[0] not in FINAL for invoice in invoices):
        raise bad("customer has non-final invoices")
    change(sandbox, "customer", row, deletedAt=sandbox.stamp())
    return Response(204)


def running(sandbox: Sandbox, customer_id: str) -> list[Row]:
    """Subscriptions of a customer that are neither deleted nor ended."""
    now = sandbox.now()
    return [
        row
        for row in live(sandbox, "subscription")
        if row["customerId"] == customer_id and (not row.get("activeTo") or parse(row["activeTo"]) > now)
    ]


@router.post("/api/v1/meters")
def create_meter(sandbox: Sandbox, request: Request) -> Response:
    body = request.body()
    required(body, "slug", "aggregation", "eventType")
    one_of(body, "aggregation", AGGREGATIONS)
    if not KEY.fullmatch(body["slug"]):
        raise bad("slug must match ^[a-z0-9]+(?:_[a-z0-9]+)*$")
    if body["aggregation"] != "COUNT" and not str(body.get("valueProperty", "")).startswith("$"):
        raise bad("valueProperty must be a JSONPath, as $.value")
    if any(row["slug"] == body["slug"] for row in live(sandbox, "meter")):
        raise ApiError(409, "conflict", f"meter with slug {body['slug']} already exists")
    names = (
        "slug",
        "name",
        "description",
        "aggregation",
        "eventType",
        "valueProperty",
        "groupBy",
        "metadata",
    )
    return Response(201, create(sandbox, "meter", **{name: body.get(name) for name in names}))


@router.get("/api/v1/meters")
def list_meters(sandbox: Sandbox, request: Request) -> Response:
    """A bare array, unlike the other lists."""
    return Response(200, live(sandbox, "meter"))


@router.get("/api/v1/meters/{id}")
def get_meter(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, find_meter(sandbox, request.params["id"]))


def find_meter(sandbox: Sandbox, identity: str) -> Row:
    for row in live(sandbox, "meter"):
        if identity in (row["id"], row["slug"]):
            return row
    raise ApiError(404, "not_found", f"meter {identity} not found")


@router.post("/api/v1/features")
def create_feature(sandbox: Sandbox, request: Request) -> Response:
    body = request.body()
    required(body, "key", "name")
    if not KEY.fullmatch(body["key"]):
        raise bad("key must match ^[a-z0-9]+(?:_[a-z0-9]+)*$")
    if body.get("meterSlug"):
        meter = find_meter(sandbox, body["meterSlug"])
        if unknown := set(body.get("meterGroupByFilters") or {}) - set(meter.get("groupBy") or {}):
            raise bad(f"meterGroupByFilters: the meter does not group by {min(unknown)}")
    if any(row["key"] == body["key"] and not row.get("archivedAt") for row in live(sandbox, "feature")):
        raise ApiError(409, "conflict", f"feature with key {body['key']} already exists")
    names = ("key", "name", "metadata", "meterSlug", "meterGroupByFilters", "advancedMeterGroupByFilters")
    return Response(201, create(sandbox, "feature", **{name: body.get(name) for name in names}))


@router.get("/api/v1/features")
def list_features(sandbox: Sandbox, request: Request) -> Response:
    """A bare array without page parameters, a page with them, as the real server answers."""
    rows = [row for row in live(sandbox, "feature") if not row.get("archivedAt")]
    if slugs := request.many("meterSlug"):
        rows = [row for row in rows if row.get("meterSlug") in slugs]
    return (
        page(request, rows) if "page" in request.query or "pageSize" in request.query else Response(200, rows)
    )


@router.get("/api/v1/features/{id}")
def get_feature(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, find_feature(sandbox, request.params["id"]))


@router.delete("/api/v1/features/{id}")
def archive_feature(sandbox: Sandbox, request: Request) -> Response:
    change(sandbox, "feature", find_feature(sandbox, request.params["id"]), archivedAt=sandbox.stamp())
    return Response(204)


def find_feature(sandbox: Sandbox, identity: str) -> Row:
    rows = [row for row in live(sandbox, "feature") if identity in (row["id"], row["key"])]
    for row in sorted(rows, key=lambda row: bool(row.get("archivedAt"))):
        return row
    raise ApiError(404, "not_found", f"feature {identity} not found")


@router.post("/api/v1/marketplace/listings/{type}/install")
def install_app(sandbox: Sandbox, request: Request) -> Response:
    kind = request.params["type"]
    if kind not in ("custom_invoicing", "sandbox"):
        raise ApiError(404, "not_found", f"marketplace listing {kind} not found")
    app = _install(sandbox, kind, request.body().get("name") or kind)
    return Response(200, {"app": public(app), "defaultForCapabilityTypes": []})


def _install(sandbox: Sandbox, kind: str, name: str) -> Row:
    listing = {
        "type": kind,
        "name": name,
        "description": name,
        "capabilities": [],
        "installMethods": ["no_credentials"],
    }
    hooks = (
        {"enableDraftSyncHook": False, "enableIssuingSyncHook": False} if kind == "custom_invoicing" else {}
    )
    return create(sandbox, "app", type=kind, name=name, status="ready", listing=listing, **hooks)


@router.get("/api/v1/apps")
def list_apps(sandbox: Sandbox, request: Request) -> Response:
    return page(request, live(sandbox, "app"))


@router.get("/api/v1/apps/{id}")
def get_app(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, fetch(sandbox, "app", request.params["id"]))


@router.put("/api/v1/apps/{id}")
def update_app(sandbox: Sandbox, request: Request) -> Response:
    row, body = fetch(sandbox, "app", request.params["id"]), request.body()
    required(body, "type", "name")
    if body["type"] != row["type"]:
        raise bad(f"app type is {row['type']}")
    hooks = ("enableDraftSyncHook", "enableIssuingSyncHook") if row["type"] == "custom_invoicing" else ()
    required(body, *hooks)
    fields = {name: body[name] for name in hooks}
    if not all(isinstance(value, bool) for value in fields.values()):
        raise bad("hooks must be booleans")
    return Response(200, change(sandbox, "app", row, name=body["name"], **fields))


@router.post("/api/v1/billing/profiles")
def create_profile(sandbox: Sandbox, request: Request) -> Response:
    body = request.body()
    required(body, "name", "supplier", "apps", "workflow", "default")
    for role in ("tax", "invoicing", "payment"):
        if sandbox.store.get("om.app", str(body["apps"].get(role))) is None:
            raise bad(f"apps.{role}: app not found")
    workflow = _workflow(body["workflow"])
    if body["default"]:
        for other in live(sandbox, "profile"):
            if other["default"]:
                change(sandbox, "profile", other, default=False)
    fields = {
        name: body.get(name) for name in ("name", "description", "supplier", "apps", "default", "metadata")
    }
    return Response(201, _profile(sandbox, create(sandbox, "profile", **fields, workflow=workflow)))


def _workflow(asked: Row) -> Row:
    workflow = {part: {**defaults, **(asked.get(part) or {})} for part, defaults in WORKFLOW.items()}
    one_of(workflow["invoicing"], "subscriptionEndProrationMode", ("bill_actual_period", "bill_full_period"))
    one_of(workflow["payment"], "collectionMethod", ("charge_automatically", "send_invoice"))
    durations = [workflow["collection"]["interval"]]
    durations += [workflow["invoicing"][name] for name in ("draftPeriod", "dueAfter")]
    for duration in durations:
        try:
            add_duration(EPOCH, duration)
        except (TypeError, ValueError) as error:
            raise bad(str(error)) from None
    return workflow


@router.get("/api/v1/billing/profiles")
def list_profiles(sandbox: Sandbox, request: Request) -> Response:
    expand = "apps" in request.many("expand")
    return page(request, [_profile(sandbox, row, expand) for row in live(sandbox, "profile")])


@router.get("/api/v1/billing/profiles/{id}")
def get_profile(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "profile", request.params["id"])
    return Response(200, _profile(sandbox, row, "apps" in request.many("expand")))


@router.put("/api/v1/billing/profiles/{id}")
def update_profile(sandbox: Sandbox, request: Request) -> Response:
    """Name, supplier, workflow and default; the apps are fixed at creation."""
    row, body = fetch(sandbox, "profile", request.params["id"]), request.body()
    required(body, "name", "supplier", "workflow", "default")
    if body["default"]:
        for other in live(sandbox, "profile"):
            if other["default"] and other["id"] != row["id"]:
                change(sandbox, "profile", other, default=False)
    fields = {name: body[name] for name in ("name", "supplier", "default")}
    changed = change(sandbox, "profile", row, **fields, workflow=_workflow(body["workflow"]))
    return Response(200, _profile(sandbox, changed))


def expand_apps(sandbox: Sandbox, apps: Row, full: bool = True) -> Row:
    return {role: public(fetch(sandbox, "app", app)) if full else {"id": app} for role, app in apps.items()}


def _profile(sandbox: Sandbox, row: Row, full: bool = False) -> Row:
    return {**row, "apps": expand_apps(sandbox, row["apps"], full)}


def effective_profile(sandbox: Sandbox, customer_id: str) -> Row:
    override = sandbox.store.get("om.override", customer_id)
    if override and override.get("billingProfileId"):
        return fetch(sandbox, "profile", override["billingProfileId"])
    return next(row for row in live(sandbox, "profile") if row["default"])


@router.put("/api/v1/billing/customers/{id}")
def override_profile(sandbox: Sandbox, request: Request) -> Response:
    """By the customer's ULID, not its key."""
    customer, body = fetch(sandbox, "customer", request.params["id"]), request.body()
    if body.get("billingProfileId"):
        fetch(sandbox, "profile", body["billingProfileId"])
    now = sandbox.stamp()
    row = {"createdAt": now, "updatedAt": now, "customerId": customer["id"]}
    if body.get("billingProfileId"):
        row["billingProfileId"] = body["billingProfileId"]
    sandbox.store.put("om.override", row, customer["id"])
    return Response(200, _override(sandbox, customer, request))


@router.get("/api/v1/billing/customers/{id}")
def get_override(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, _override(sandbox, fetch(sandbox, "customer", request.params["id"]), request))


def _override(sandbox: Sandbox, customer: Row, request: Request) -> Row:
    profile = effective_profile(sandbox, customer["id"])
    expanded = _profile(sandbox, profile, "apps" in request.many("expand"))
    answer = {
        "baseBillingProfileId": profile["id"],
        "customerProfile": {name: expanded[name] for name in ("supplier", "workflow", "apps")},
    }
    if override := sandbox.store.get("om.override", customer["id"]):
        answer["customerOverride"] = override
    if "customer" in request.many("expand"):
        answer["customer"] = customer
    return answer

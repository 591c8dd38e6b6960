"""Invoices over HTTP: reading, actions, manual lines, and the three custom-invoicing calls.

The custom-invoicing calls answer 200 with the invoice, as the real server does although its
specification says 204. A repeated trigger is a 400, not a no-op.
"""

from commerce.sandbox.clock import iso, parse
from commerce.sandbox.core import Sandbox
from commerce.sandbox.openmeter import billing
from commerce.sandbox.openmeter.base import (
    amount,
    bad,
    billing_error,
    change,
    fetch,
    instant,
    live,
    ordered,
    page,
    required,
    router,
)
from commerce.sandbox.openmeter.catalogue import effective_profile
from commerce.sandbox.openmeter.rating import period_at
from commerce.sandbox.store import Row
from commerce.sandbox.web import ApiError, Request, Response

STATUSES = (
    "gathering", "draft", "issuing", "issued", "payment_processing", "overdue", "paid", "uncollectible",
    "voided",
)  # fmt: skip
ORDERS = ("createdAt", "updatedAt", "issuedAt", "status", "periodStart", "customer.name")
PAYING = tuple(
    f"payment_processing.{step}" for step in ("pending", "authorized", "failed", "action_required")
)
TRIGGERS: dict[str, tuple[tuple[str, ...], str]] = {
    "paid": ((*PAYING, "overdue", "uncollectible"), "paid"),
    "payment_failed": ((PAYING[0], PAYING[1], PAYING[3], "overdue"), "payment_processing.failed"),
    "action_required": ((*PAYING[:3], "overdue"), "payment_processing.action_required"),
    "payment_overdue": (PAYING, "overdue"),
    "payment_uncollectible": ((*PAYING, "overdue"), "uncollectible"),
    "void": ((*PAYING, "issued", "uncollectible"), "voided"),
}


@router.get("/api/v1/billing/invoices")
def list_invoices(sandbox: Sandbox, request: Request) -> Response:
    statuses = request.many("statuses")
    if unknown := set(statuses) - set(STATUSES):
        raise bad(f"statuses: {min(unknown)} is not one of the allowed values")
    include_deleted = request.one("includeDeleted") == "true"
    rows = [row for row in sandbox.store.rows("om.invoice") if include_deleted or not row.get("deletedAt")]
    views = [billing.view(sandbox, row) for row in rows]
    if not statuses or "gathering" in statuses:
        views += [billing.view(sandbox, row) for row in _gathering(sandbox)]
    views = [view for view in views if _wanted(request, view, statuses)]
    keyed = [
        {**view, "periodStart": view["period"]["from"], "customer.name": view["customer"]["name"]}
        for view in views
    ]
    keyed = ordered(request, keyed, "createdAt", ORDERS)
    hidden = {"periodStart", "customer.name"} | (set() if "lines" in request.many("expand") else {"lines"})
    return page(request, [{n: v for n, v in view.items() if n not in hidden} for view in keyed])


def _wanted(request: Request, view: Row, statuses: list[str]) -> bool:
    if statuses and view["status"] not in statuses:
        return False
    extended, customers = request.many("extendedStatuses"), request.many("customers")
    if extended and view["statusDetails"]["extendedStatus"] not in extended:
        return False
    if customers and view["customer"]["id"] not in customers:
        return False
    bounds = {
        "issued": view.get("issuedAt"),
        "created": view["createdAt"],
        "periodStart": view["period"]["from"],
    }
    for name, value in bounds.items():
        after, before = request.one(f"{name}After"), request.one(f"{name}Before")
        if after and not (value and parse(value) >= parse(instant(after, f"{name}After"))):
            return False
        if before and not (value and parse(value) <= parse(instant(before, f"{name}Before"))):
            return False
    return True


def _gathering(sandbox: Sandbox) -> list[Row]:
    """What the running periods will bill, rated now: one staging invoice per customer and currency."""
    staged: dict[tuple[str, str], list[Row]] = {}
    now = sandbox.now()
    for subscription in live(sandbox, "subscription"):
        profile = effective_profile(sandbox, subscription["customerId"])
        at = max(now, parse(subscription["activeFrom"]))
        until = period_at(parse(subscription["billingAnchor"]), subscription["billingCadence"], at)[1]
        lines = [
            billing.line_of(sandbox, due) for due in billing.pending(sandbox, subscription, until, profile)
        ]
        if lines:
            staged.setdefault((subscription["customerId"], subscription["currency"]), []).extend(lines)
    for row in sandbox.store.rows("om.pending_line"):
        staged.setdefault((row["customerId"], row["line"]["currency"]), []).append(row["line"])
    return [_staging(sandbox, customer, currency, lines) for (customer, currency), lines in staged.items()]


def _staging(sandbox: Sandbox, customer_id: str, currency: str, lines: list[Row]) -> Row:
    key = f"{customer_id}/{currency}"
    head = sandbox.store.get("om.gathering", key)
    if head is None:
        now = sandbox.stamp()
        head = sandbox.store.put(
            "om.gathering", {"id": sandbox.ulid(), "createdAt": now, "updatedAt": now}, key
        )
    customer = fetch(sandbox, "customer", customer_id)
    profile = effective_profile(sandbox, customer_id)
    lines = [billing.rated(sandbox, customer, line) for line in lines]
    buyer = {"id": customer_id, "key": customer.get("key"), "name": customer["name"]}
    usage_attribution = customer.get("usageAttribution") or {"subjectKeys": []}
    return {
        **head,
        "type": "standard",
        "number": "GATHER",
        "currency": currency,
        "customer": {**buyer, "usageAttribution": usage_attribution},
        "supplier": profile["supplier"],
        "workflow": {"sourceBillingProfileId": profile["id"], "workflow": profile["workflow"]},
        "period": {
            "from": iso(min(parse(line["period"]["from"]) for line in lines)),
            "to": iso(max(parse(line["period"]["to"]) for line in lines)),
        },
        "totals": billing.sum_lines(lines),
        "lines": lines,
        "_state": "gathering",
    }


@router.get("/api/v1/billing/invoices/{id}")
def get_invoice(sandbox: Sandbox, request: Request) -> Response:
    identity = request.params["id"]
    for row in _gathering(sandbox) if sandbox.store.get("om.invoice", identity) is None else []:
        if row["id"] == identity:
            return Response(200, billing.view(sandbox, row))
    return Response(200, billing.view(sandbox, fetch(sandbox, "invoice", identity)))


@router.delete("/api/v1/billing/invoices/{id}")
def delete_invoice(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "invoice", request.params["id"])
    if not row["_state"].startswith("draft"):
        raise billing_error("invoice_action_not_available", "only drafts can be deleted")
    billing.hop(sandbox, row, "deleted", deletedAt=sandbox.stamp())
    return Response(204)


@router.post("/api/v1/billing/invoices/invoice")
def invoice_pending_lines(sandbox: Sandbox, request: Request) -> Response:
    body = request.body()
    required(body, "customerId")
    customer = fetch(sandbox, "customer", body["customerId"])
    before = {row["id"] for row in sandbox.store.rows("om.invoice")}
    billing.gather(sandbox, customer["id"])
    fresh = [row for row in sandbox.store.rows("om.invoice") if row["id"] not in before]
    if not fresh:
        raise billing_error("invoice_create_no_lines", "the new invoice would have no lines")
    return Response(201, [billing.view(sandbox, row) for row in fresh])


@router.post("/api/v1/billing/customers/{id}/invoices/pending-lines")
def create_pending_lines(sandbox: Sandbox, request: Request) -> Response:
    """Manual charges, flat only."""
    customer, body = fetch(sandbox, "customer", request.params["id"]), request.body()
    required(body, "currency", "lines")
    known = any(row["customer"]["id"] == customer["id"] for row in _gathering(sandbox))
    lines = [_manual_line(sandbox, body["currency"], line) for line in body["lines"]]
    for line in lines:
        row = {"id": line["id"], "customerId": customer["id"], "line": line}
        sandbox.store.put("om.pending_line", row)
        at = parse(line["invoiceAt"])
        if at > sandbox.now():
            sandbox.schedule(at, "om.gather", customer_id=customer["id"])
        else:
            sandbox.soon("om.gather", customer_id=customer["id"])
    staged = next(row for row in _gathering(sandbox) if row["customer"]["id"] == customer["id"])
    answer = {"lines": [billing.rated(sandbox, customer, line) for line in lines], "isInvoiceNew": not known}
    return Response(201, {**answer, "invoice": billing.view(sandbox, staged)})


def _manual_line(sandbox: Sandbox, currency: str, body: Row) -> Row:
    required(body, "name", "period", "invoiceAt", "rateCard")
    price = body["rateCard"].get("price") or {}
    if price.get("type") != "flat":
        raise bad("a pending line needs a flat price here")
    amount(price.get("amount"), "rateCard.price.amount")
    period = {
        edge: iso(parse(instant(body["period"].get(edge), f"period.{edge}"))) for edge in ("from", "to")
    }
    now = sandbox.stamp()
    return {
        "id": sandbox.ulid(),
        "createdAt": now,
        "updatedAt": now,
        "name": body["name"],
        "type": "usage_based",
        "managedBy": "manual",
        "status": "valid",
        "currency": currency,
        "metadata": body.get("metadata", {}),
        "period": period,
        "invoiceAt": iso(parse(instant(body["invoiceAt"], "invoiceAt"))),
        "price": price,
        "rateCard": body["rateCard"],
        "taxes": [],
    }


@router.post("/api/v1/billing/invoices/{id}/advance")
def advance_invoice(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "invoice", request.params["id"])
    return Response(200, billing.view(sandbox, billing.advance(sandbox, row)))


@router.post("/api/v1/billing/invoices/{id}/snapshot-quantities")
def snapshot_quantities(sandbox: Sandbox, request: Request) -> Response:
    row = _in_state(sandbox, request, "draft.waiting_for_collection")
    return Response(200, billing.view(sandbox, billing.collect(sandbox, row)))


@router.post("/api/v1/billing/invoices/{id}/approve")
def approve_invoice(sandbox: Sandbox, request: Request) -> Response:
    row = _in_state(sandbox, request, "draft.manual_approval_needed", "draft.waiting_auto_approval")
    return Response(200, billing.view(sandbox, billing.issue(sandbox, row)))


@router.post("/api/v1/billing/invoices/{id}/retry")
def retry_invoice(sandbox: Sandbox, request: Request) -> Response:
    failed = ("draft.sync_failed", "issuing.failed", PAYING[2], PAYING[3], "overdue")
    row = _in_state(sandbox, request, *failed)
    if row["_state"] == "draft.sync_failed":
        row = billing.validate(sandbox, row)
    elif row["_state"] == "issuing.failed":
        row = billing.hop(sandbox, row, "issuing.syncing")
    else:
        row = billing.hop(sandbox, row, PAYING[0])
    return Response(200, billing.view(sandbox, row))


@router.post("/api/v1/billing/invoices/{id}/void")
def void_invoice(sandbox: Sandbox, request: Request) -> Response:
    raise ApiError(501, "not_implemented", "")


@router.post("/api/v1/billing/invoices/{id}/taxes/recalculate")
def recalculate_taxes(sandbox: Sandbox, request: Request) -> Response:
    raise ApiError(501, "not_implemented", "")


def _in_state(sandbox: Sandbox, request: Request, *states: str) -> Row:
    row = fetch(sandbox, "invoice", request.params["id"])
    if row["_state"] not in states:
        action = request.path.rsplit("/", 1)[-1]
        raise billing_error("invoice_action_not_available", f"{action} is not available in {row['_state']}")
    return row


@router.post("/api/v1/apps/custom-invoicing/{id}/draft/synchronized")
def draft_synchronized(sandbox: Sandbox, request: Request) -> Response:
    row, body = fetch(sandbox, "invoice", request.params["id"]), request.body()
    if row["_state"] != "draft.syncing":
        raise bad("invoice is not in draft.syncing state")
    if not isinstance(body.get("invoicing"), dict):
        raise bad("invoicing is required")
    given = body["invoicing"]
    external = {entry["lineId"]: entry["externalId"] for entry in given.get("lineExternalIds") or []}
    if unknown := set(external) - {line["id"] for line in row["lines"]}:
        raise bad(f"line {min(unknown)} not found on the invoice")
    lines = [
        {**x, "externalIds": {"invoicing": external[x["id"]]}} if x["id"] in external else x
        for x in row["lines"]
    ]
    mark = {"openmeter.io/custominvoicing/draft-synced-at": iso(sandbox.now())}
    ids = {"invoicing": given["externalId"]} if given.get("externalId") else {}
    fields = {"lines": lines, "externalIds": {**row.get("externalIds", {}), **ids}, "_draftSynced": True}
    row = change(sandbox, "invoice", row, **fields, metadata={**row["metadata"], **mark})
    return Response(200, billing.view(sandbox, billing.approve_when_due(sandbox, row)))


@router.post("/api/v1/apps/custom-invoicing/{id}/issuing/synchronized")
def issuing_synchronized(sandbox: Sandbox, request: Request) -> Response:
    """Without an invoice number the draft number stays, as in the real code."""
    row, body = fetch(sandbox, "invoice", request.params["id"]), request.body()
    if row["_state"] != "issuing.syncing":
        raise bad("invoice is not in issuing.syncing state")
    invoicing, payment = body.get("invoicing") or {}, body.get("payment") or {}
    fields = {"number": invoicing.get("invoiceNumber") or row["number"]}
    if invoicing.get("sentToCustomerAt"):
        fields["sentToCustomerAt"] = instant(invoicing["sentToCustomerAt"], "sentToCustomerAt")
    if payment.get("externalId"):
        fields["externalIds"] = {**row.get("externalIds", {}), "payment": payment["externalId"]}
    mark = {"openmeter.io/custominvoicing/finalized-at": iso(sandbox.now())}
    _note(sandbox, row, "issuing_synchronized")
    row = billing.await_payment(sandbox, row, **fields, metadata={**row["metadata"], **mark})
    return Response(200, billing.view(sandbox, row))


@router.post("/api/v1/apps/custom-invoicing/{id}/payment/status")
def payment_status(sandbox: Sandbox, request: Request) -> Response:
    row, body = fetch(sandbox, "invoice", request.params["id"]), request.body()
    required(body, "trigger")
    if body["trigger"] not in TRIGGERS:
        raise bad(f"trigger: value is not one of the allowed values {', '.join(TRIGGERS)}")
    if row["workflow"]["apps"]["payment"]["type"] != "custom_invoicing":
        raise bad("the invoice's payment app is not custom invoicing")
    allowed, target = TRIGGERS[body["trigger"]]
    state = row["_state"]
    if body["trigger"] == "payment_failed" and state.split(".")[0] in ("draft", "issuing"):
        # The real trigger is not guarded by state: it fails a draft or an issuing invoice too.
        target = "draft.sync_failed" if state.startswith("draft") else "issuing.failed"
    elif state not in allowed:
        raise billing_error(
            "invoice_action_not_available", f"trigger {body['trigger']} is not allowed in {state}"
        )
    _note(sandbox, row, "payment_status", trigger=body["trigger"])
    return Response(200, billing.view(sandbox, billing.hop(sandbox, row, target)))


def _note(sandbox: Sandbox, invoice: Row, action: str, **more: str) -> None:
    entry = {"invoice_id": invoice["id"], "action": action, "at": iso(sandbox.now()), **more}
    sandbox.store.put("om.invoice_log", entry, f"{sandbox.store.count('order'):012d}")

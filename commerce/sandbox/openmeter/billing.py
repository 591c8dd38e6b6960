"""How invoices come to be: gather what is due, wait for late usage, and walk the state machine.

`watch` sees to it that a subscription is looked at whenever something of it may fall due; gathering is
idempotent by line. Each hop of an invoice is notified with the snapshot of that hop.
"""

from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from commerce.sandbox.clock import iso, parse
from commerce.sandbox.core import Sandbox, work
from commerce.sandbox.openmeter.base import billing_error, change, compact, create, fetch, live
from commerce.sandbox.openmeter.catalogue import effective_profile, expand_apps, find_feature
from commerce.sandbox.openmeter.events import usage
from commerce.sandbox.openmeter.notifications import notify
from commerce.sandbox.openmeter.prices import Part, Rated, number, rate
from commerce.sandbox.openmeter.rating import Due, add_duration, dues, period_at
from commerce.sandbox.store import Row

ZERO = Decimal(0)


def watch(sandbox: Sandbox, subscription: Row) -> None:
    """Look at this subscription's customer now, when it starts, at its next boundary and when it ends."""
    sandbox.soon("om.gather", customer_id=subscription["customerId"])
    _schedule(sandbox, subscription)


def _schedule(sandbox: Sandbox, subscription: Row) -> None:
    now, starts = sandbox.now(), parse(subscription["activeFrom"])
    anchor, cadence = parse(subscription["billingAnchor"]), subscription["billingCadence"]
    instants = {starts, period_at(anchor, cadence, max(now, starts))[1]}
    bounds = [
        subscription,
        *subscription["_phases"],
        *(i for p in subscription["_phases"] for i in p["_items"]),
    ]
    for bound in bounds:
        instants |= {parse(bound[name]) for name in ("activeFrom", "activeTo") if bound.get(name)}
    for at in sorted(instants):
        if at > now:
            sandbox.schedule(at, "om.gather", customer_id=subscription["customerId"])


@work("om.gather")
def gather(sandbox: Sandbox, customer_id: str) -> None:
    """Invoice all that is due of a customer and was not invoiced, one invoice per currency."""
    now, profile = sandbox.now(), effective_profile(sandbox, customer_id)
    due: dict[str, list[Row]] = defaultdict(list)
    for subscription in live(sandbox, "subscription"):
        if subscription["customerId"] != customer_id:
            continue
        if not subscription.get("activeTo") or parse(subscription["activeTo"]) > now:
            _schedule(sandbox, subscription)
        for one in pending(sandbox, subscription, now, profile):
            sandbox.store.put("om.billed", {"at": iso(now)}, one.key)
            due[subscription["currency"]].append(line_of(sandbox, one))
    for line in sandbox.store.rows("om.pending_line"):
        if line["customerId"] == customer_id and parse(line["line"]["invoiceAt"]) <= now:
            sandbox.store.remove("om.pending_line", line["id"])
            due[line["line"]["currency"]].append(line["line"])
    customer = fetch(sandbox, "customer", customer_id)
    for currency, lines in due.items():
        _open_invoice(sandbox, customer, profile, currency, lines)


def pending(sandbox: Sandbox, subscription: Row, until: datetime, profile: Row) -> list[Due]:
    mode = profile["workflow"]["invoicing"]["subscriptionEndProrationMode"]
    billed = sandbox.store.table("om.billed")
    return [due for due in dues(subscription, until, mode) if due.key not in billed]


def line_of(sandbox: Sandbox, due: Due) -> Row:
    card, now = due.item["_rateCard"], sandbox.stamp()
    billing_period, service_period = (
        {"from": iso(start), "to": iso(end)} for start, end in (due.billing_period, due.service_period)
    )
    rate_card = {name: card.get(name) for name in ("featureKey", "price", "discounts", "taxConfig")}
    line = {
        "id": sandbox.ulid(),
        "createdAt": now,
        "updatedAt": now,
        "name": card["name"],
        "type": "usage_based",
        "managedBy": "subscription",
        "status": "valid",
        "currency": due.subscription["currency"],
        "period": service_period,
        "invoiceAt": iso(due.invoice_at),
        "featureKey": card.get("featureKey"),
        "price": card["price"],
        "rateCard": compact(rate_card),
        "taxes": [],
        "subscription": {
            "subscription": {"id": due.subscription["id"]},
            "phase": {"id": due.phase["id"]},
            "item": {"id": due.item["id"]},
            "billingPeriod": billing_period,
        },
        "_share": [due.share.numerator, due.share.denominator],
        "_itemKey": due.item["key"],
    }
    return compact(line)


def rated(sandbox: Sandbox, customer: Row, line: Row) -> Row:
    """The line with quantity, totals, discounts and its detailed lines."""
    card, price = line["rateCard"], line["rateCard"]["price"]
    quantity, discounts = Decimal(1), card.get("discounts") or {}
    if price["type"] != "flat":
        feature = find_feature(sandbox, card["featureKey"])
        quantity = usage(
            sandbox, customer, feature, *(parse(line["period"][edge]) for edge in ("from", "to"))
        )
    result = rate(price, quantity, Fraction(*line.get("_share", [1, 1])), discounts, line["currency"])
    if wrong := Decimal(line.get("_overcharge", "0")):
        result = Rated((*result.parts, Part("overcharge", Decimal(1), wrong, wrong)), result.free)
    priced = {"quantity": number(quantity - result.free), "totals": _totals([result])}
    if price["type"] != "flat":
        priced["meteredQuantity"] = number(quantity)
    if result.free:
        reason = {"type": "ratecard_usage", "quantity": discounts["usage"]["quantity"]}
        priced["discounts"] = {"usage": [_discount(line, reason, quantity=number(result.free))]}
    return {
        **line,
        **priced,
        "children": [_detail(line, card, index, part) for index, part in enumerate(result.parts)],
    }


def _detail(line: Row, card: Row, index: int, part: Part) -> Row:
    copied = (
        "createdAt", "updatedAt", "managedBy", "status", "currency", "period", "invoiceAt", "subscription"
    )  # fmt: skip
    detail = {name: line[name] for name in copied if name in line}
    detail |= {
        "id": f"{line['id'][:-2]}{index:02d}",
        "name": f"{line['name']}: {part.label}" if part.label else line["name"],
        "type": "flat_fee",
        "category": "commitment" if part.commitment else "regular",
        "quantity": number(part.quantity),
        "perUnitAmount": number(part.per_unit),
        "totals": _totals([Rated((part,))]),
    }
    amounts = []
    if part.percentage:
        reason = {"type": "ratecard_percentage", "percentage": card["discounts"]["percentage"]["percentage"]}
        amounts.append(_discount(line, reason, amount=number(part.percentage)))
    if part.over_maximum:
        amounts.append(_discount(line, {"type": "maximum_spend"}, amount=number(part.over_maximum)))
    return {**detail, **({"discounts": {"amount": amounts}} if amounts else {})}


def _discount(line: Row, reason: Row, **value: str) -> Row:
    return {**{name: line[name] for name in ("id", "createdAt", "updatedAt")}, "reason": reason, **value}


def _totals(results: list[Rated]) -> Row:
    sums = {
        name: sum((getattr(result, name) for result in results), ZERO)
        for name in ("amount", "charges", "discount", "total")
    }
    return _written(**sums)


def sum_lines(lines: list[Row]) -> Row:
    names = {"amount": "amount", "charges": "chargesTotal", "discount": "discountsTotal", "total": "total"}
    return _written(
        **{
            name: sum((Decimal(line["totals"][written]) for line in lines), ZERO)
            for name, written in names.items()
        }
    )


def _written(*, amount: Decimal, charges: Decimal, discount: Decimal, total: Decimal) -> Row:
    return {
        "amount": number(amount),
        "chargesTotal": number(charges),
        "discountsTotal": number(discount),
        "creditsTotal": "0",
        "taxesInclusiveTotal": "0",
        "taxesExclusiveTotal": "0",
        "taxesTotal": "0",
        "total": number(total),
    }


def _open_invoice(sandbox: Sandbox, customer: Row, profile: Row, currency: str, lines: list[Row]) -> Row:
    now, workflow = sandbox.now(), profile["workflow"]
    metered = any(line["rateCard"]["price"]["type"] != "flat" for line in lines)
    collection_at = add_duration(now, workflow["collection"]["interval"]) if metered else now
    address = customer.get("billingAddress")
    buyer = {
        "id": customer["id"],
        "key": customer.get("key"),
        "name": customer["name"],
        "addresses": [address] if address else None,
        "usageAttribution": customer.get("usageAttribution") or {"subjectKeys": []},
    }
    lines = [rated(sandbox, customer, line) for line in lines]
    invoice = create(
        sandbox,
        "invoice",
        type="standard",
        number=f"DRAFT-{sandbox.store.count('draft_number')}",
        currency=currency,
        customer=compact(buyer),
        supplier=profile["supplier"],
        metadata={},
        workflow={
            "apps": expand_apps(sandbox, profile["apps"]),
            "sourceBillingProfileId": profile["id"],
            "workflow": workflow,
        },
        period={
            "from": iso(min(parse(line["period"]["from"]) for line in lines)),
            "to": iso(max(parse(line["period"]["to"]) for line in lines)),
        },
        **_dates(workflow, collection_at),
        totals=sum_lines(lines),
        lines=lines,
        _state="draft.waiting_for_collection",
    )
    notify(sandbox, "invoice.created", view(sandbox, invoice))
    if collection_at > now:
        sandbox.schedule(collection_at, "om.advance", invoice_id=invoice["id"])
        return invoice
    return collect(sandbox, invoice)


def _dates(workflow: Row, collection_at: datetime) -> Row:
    draft_until = add_duration(collection_at, workflow["invoicing"]["draftPeriod"])
    due_at = add_duration(draft_until, workflow["invoicing"]["dueAfter"])
    return {"collectionAt": iso(collection_at), "draftUntil": iso(draft_until), "dueAt": iso(due_at)}


@work("om.advance")
def advance_by_clock(sandbox: Sandbox, invoice_id: str) -> None:
    invoice = sandbox.store.get("om.invoice", invoice_id)
    if invoice and can_advance(sandbox, invoice):
        advance(sandbox, invoice)


def can_advance(sandbox: Sandbox, invoice: Row) -> bool:
    gates = {"draft.waiting_for_collection": "collectionAt", "draft.waiting_auto_approval": "draftUntil"}
    gate = gates.get(invoice["_state"])
    return gate is not None and parse(invoice[gate]) <= sandbox.now()


def advance(sandbox: Sandbox, invoice: Row) -> Row:
    """The automatic transitions of a waiting draft; billing_error when it has to go on waiting."""
    if not can_advance(sandbox, invoice):
        raise billing_error("invoice_cannot_advance", f"invoice cannot advance from {invoice['_state']}")
    if invoice["_state"] == "draft.waiting_for_collection":
        return collect(sandbox, invoice)
    return issue(sandbox, invoice)


def hop(sandbox: Sandbox, invoice: Row, state: str, **fields: Any) -> Row:
    invoice = change(sandbox, "invoice", invoice, _state=state, **fields)
    notify(sandbox, "invoice.updated", view(sandbox, invoice))
    return invoice


def collect(sandbox: Sandbox, invoice: Row) -> Row:
    """Usage is read for the last time; a later event changes meters, not this invoice."""
    invoice = hop(sandbox, invoice, "draft.collecting")
    customer = fetch(sandbox, "customer", invoice["customer"]["id"])
    lines = [rated(sandbox, customer, _overcharged(sandbox, invoice, line)) for line in invoice["lines"]]
    now = sandbox.now()
    fields = {"lines": lines, "totals": sum_lines(lines), "quantitySnapshotedAt": iso(now)}
    if now < parse(invoice["collectionAt"]):
        fields |= _dates(invoice["workflow"]["workflow"], now)
    return validate(sandbox, change(sandbox, "invoice", invoice, **fields))


def validate(sandbox: Sandbox, invoice: Row) -> Row:
    invoice = hop(sandbox, invoice, "draft.validating")
    if _app(sandbox, invoice).get("enableDraftSyncHook") and "_draftSynced" not in invoice:
        return hop(sandbox, invoice, "draft.syncing")
    return approve_when_due(sandbox, invoice)


def approve_when_due(sandbox: Sandbox, invoice: Row) -> Row:
    if not invoice["workflow"]["workflow"]["invoicing"]["autoAdvance"]:
        return hop(sandbox, invoice, "draft.manual_approval_needed")
    until = parse(invoice["draftUntil"])
    if until > sandbox.now():
        sandbox.schedule(until, "om.advance", invoice_id=invoice["id"])
        return hop(sandbox, invoice, "draft.waiting_auto_approval")
    return issue(sandbox, invoice)


def issue(sandbox: Sandbox, invoice: Row) -> Row:
    invoice = hop(sandbox, invoice, "draft.ready_to_issue")
    issued = {"issuedAt": iso(sandbox.now())}
    if _app(sandbox, invoice).get("enableIssuingSyncHook"):
        return hop(sandbox, invoice, "issuing.syncing", **issued)
    name = "".join(letter for letter in invoice["customer"]["name"].upper() if letter.isalpha())[:4]
    return await_payment(
        sandbox, invoice, number=f"INV-{name}-{sandbox.store.count('invoice_number')}", **issued
    )


def await_payment(sandbox: Sandbox, invoice: Row, **fields: Any) -> Row:
    invoice = hop(sandbox, invoice, "payment_processing.pending", **fields)
    if _app(sandbox, invoice)["type"] == "sandbox":
        return hop(sandbox, invoice, "paid")
    return invoice


def _app(sandbox: Sandbox, invoice: Row) -> Row:
    return fetch(sandbox, "app", invoice["workflow"]["apps"]["invoicing"]["id"])


def _overcharged(sandbox: Sandbox, invoice: Row, line: Row) -> Row:
    """A deliberate mistake that the control API asked for."""
    for wrong in sandbox.store.rows("om.overcharge"):
        fits = (
            wrong["item_key"] in ("", line.get("_itemKey"))
            and wrong["customer"] in ("", invoice["customer"]["id"], invoice["customer"].get("key"))
            and wrong["left"] > 0
        )
        if fits:
            sandbox.store.patch("om.overcharge", wrong["id"], left=wrong["left"] - 1)
            return {**line, "_overcharge": wrong["amount"]}
    return line


def view(sandbox: Sandbox, invoice: Row, lines: bool = True) -> Row:
    """An invoice as the API and the webhooks show it."""
    state = invoice["_state"]
    answer = {name: value for name, value in invoice.items() if name[0] != "_" and name != "lines"}
    answer["status"] = state.split(".")[0]
    answer["statusDetails"] = {
        "immutable": answer["status"] not in ("draft", "gathering"),
        "failed": state.endswith("failed"),
        "extendedStatus": state,
        "availableActions": _actions(state),
    }
    if lines:
        answer["lines"] = [{n: v for n, v in line.items() if n[0] != "_"} for line in invoice["lines"]]
    return answer


def _actions(state: str) -> Row:
    actions: dict[str, Row] = {}
    if state == "gathering":
        actions["invoice"] = {}
    if state == "draft.waiting_for_collection":
        actions["snapshotQuantities"] = {"resultingState": "issuing.syncing"}
    if state in ("draft.manual_approval_needed", "draft.waiting_auto_approval"):
        actions["approve"] = {"resultingState": "issuing.syncing"}
    if state.endswith("failed") or state in ("payment_processing.action_required", "overdue"):
        actions["retry"] = {"resultingState": "payment_processing.pending"}
    if state.startswith("draft"):
        actions["delete"] = {"resultingState": "deleted"}
    return actions

"""Payment orders and returns.

Payment orders go approved, processing, sent, completed on their own, one real step each. The receiving
account number decides otherwise, as in the provider's sandbox: 100XX is returned with code RXX some
business days later, 11111111X fails.
"""

import re
from datetime import date, datetime, timedelta
from typing import Any

from commerce.sandbox.clock import parse
from commerce.sandbox.core import Sandbox, work
from commerce.sandbox.modern_treasury.bank import post_transaction
from commerce.sandbox.modern_treasury.base import (
    PAYMENT_TYPES,
    between,
    change,
    checked,
    emit,
    fetch,
    invalid,
    listed,
    new,
    refer,
    router,
    save,
    table,
    today,
    view,
)
from commerce.sandbox.modern_treasury.parties import add_external_account
from commerce.sandbox.store import Row
from commerce.sandbox.web import ApiError, Request, Response

STATUSES = (
    "approved", "cancelled", "completed", "denied", "failed", "held", "needs_approval", "pending",
    "processing", "returned", "reversed", "sent", "stopped",
)  # fmt: skip
CREDIT_ONLY = ("wire", "rtp", "check")
EDITABLE_STATUSES = ("needs_approval", "approved", "pending")
PAYMENT_ORDER = {
    "type": PAYMENT_TYPES, "subtype": str, "amount": int, "direction": ("credit", "debit"),
    "priority": ("high", "normal"), "originating_account_id": str, "receiving_account_id": str,
    "receiving_account": dict, "currency": str, "effective_date": date, "description": str,
    "statement_descriptor": str, "remittance_information": str, "process_after": datetime, "purpose": str,
    "metadata": "metadata", "charge_bearer": ("shared", "sender", "receiver"), "nsf_protected": bool,
    "originating_party_name": str, "send_remittance_advice": bool, "external_id": str,
    "ultimate_originating_party_name": str, "ultimate_originating_party_identifier": str,
    "ultimate_receiving_party_name": str, "ultimate_receiving_party_identifier": str,
}  # fmt: skip
ALWAYS_NULL = (
    "accounting", "accounting_category_id", "accounting_ledger_class_id", "foreign_exchange_indicator",
    "foreign_exchange_contract", "originating_party_address", "expires_at", "ultimate_originating_account",
    "ultimate_originating_account_id", "ultimate_originating_account_type", "ledger_transaction_id",
    "current_return", "current_hold", "vendor_failure_reason", "foreign_exchange_rate", "vendor_attributes",
    "batch_id",
)  # fmt: skip
RETURN_REASONS = {
    "R01": "Insufficient Funds",
    "R02": "Account Closed",
    "R03": "No Account/Unable to Locate Account",
    "R04": "Invalid Account Number",
    "R16": "Account Frozen",
    "R20": "Non-Transaction Account",
    "R23": "Credit Entry Refused by Receiver",
    "R29": "Corporate Customer Advises Not Authorized",
}


@router.post("/api/payment_orders")
def create_payment_order(sandbox: Sandbox, request: Request) -> Response:
    required = ("type", "amount", "direction", "originating_account_id")
    fields = checked(request.body(), PAYMENT_ORDER, required)
    if fields["amount"] <= 0:
        raise invalid("amount", "amount must be a positive integer.")
    if fields["type"] in CREDIT_ONLY and fields["direction"] != "credit":
        raise invalid("direction", f"a {fields['type']} payment order can only be a credit.")
    originating = refer(
        sandbox, "internal_account", fields["originating_account_id"], "originating_account_id"
    )
    receiving = _receiving_account(sandbox, fields)
    currency = fields.get("currency", originating["currency"])
    if currency != originating["currency"]:
        raise invalid("currency", f"the originating account holds {originating['currency']}.")
    optional = {name: fields.get(name) for name in PAYMENT_ORDER if name != "receiving_account"}
    row = new(
        sandbox,
        "payment_order",
        **dict.fromkeys(ALWAYS_NULL),
        **optional
        | {
            "subtype": fields.get("subtype") or _subtype(fields["type"], receiving),
            "priority": fields.get("priority", "normal"),
            "currency": currency,
            "effective_date": fields.get("effective_date", today(sandbox)),
            "metadata": fields.get("metadata", {}),
            "nsf_protected": fields.get("nsf_protected", False),
            "receiving_account_id": receiving["id"],
        },
        reconciliation_status="unreconciled",
        status="approved",
        receiving_account_type=receiving["object"],
        originating_account_type="internal_account",
        counterparty_id=receiving.get("counterparty_id"),
        transaction_ids=[],
        reference_numbers=[],
    )
    save(sandbox, row)
    _tell(sandbox, row, "created")
    _tell(sandbox, row, "approved")
    _set_out(sandbox, row)
    return Response(201, _order(sandbox, row))


def _receiving_account(sandbox: Sandbox, fields: dict[str, Any]) -> Row:
    if "receiving_account_id" in fields:
        identity = fields["receiving_account_id"]
        return sandbox.store.get(table("internal_account"), identity) or refer(
            sandbox, "external_account", identity, "receiving_account_id"
        )
    if "receiving_account" not in fields:
        raise invalid("receiving_account_id", "receiving_account_id is required.", "parameter_missing")
    inline = fields["receiving_account"]
    party = new(sandbox, "counterparty", name=inline.get("party_name"))
    return add_external_account(sandbox, {**party, "id": None}, inline)


def _subtype(kind: str, receiving: Row) -> str | None:
    if kind != "ach":
        return None
    return "PPD" if receiving.get("party_type") == "individual" else "CCD"


@router.get("/api/payment_orders")
def list_payment_orders(sandbox: Sandbox, request: Request) -> Response:
    rows = sandbox.store.rows(table("payment_order"))
    rows = between(request, rows, "created_at", "created_at_start", "created_at_end")
    rows = between(request, rows, "effective_date", "effective_date_start", "effective_date_end")
    if wanted := request.one("transaction_id"):
        rows = [row for row in rows if wanted in row["transaction_ids"]]
    filters = ("type", "priority", "counterparty_id", "originating_account_id", "external_id", "direction")
    page = listed(request, rows, (*filters, "status"))
    return Response(200, [_order(sandbox, row) for row in page.body], page.headers)


@router.get("/api/payment_orders/{id}")
def get_payment_order(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, _order(sandbox, fetch(sandbox, "payment_order", request.params["id"])))


@router.patch("/api/payment_orders/{id}")
def update_payment_order(sandbox: Sandbox, request: Request) -> Response:
    """Metadata always, status by its rules; a protected field is ignored with 200 once approved."""
    row = fetch(sandbox, "payment_order", request.params["id"])
    fields = checked(request.body(), {**PAYMENT_ORDER, "status": STATUSES})
    status = fields.pop("status", None)
    if row["status"] == "needs_approval":
        row = {**row, **{k: v for k, v in fields.items() if k not in ("metadata", "receiving_account")}}
    row = change(sandbox, row, metadata={**row["metadata"], **fields.get("metadata", {})})
    if status and status != row["status"]:
        row = _ask_for(sandbox, row, status)
    elif fields:
        _tell(sandbox, row, "updated")
    return Response(200, _order(sandbox, row))


def _ask_for(sandbox: Sandbox, row: Row, status: str) -> Row:
    asked = (row["status"], status)
    if status == "cancelled" and row["status"] in EDITABLE_STATUSES:
        return _move(sandbox, row, "cancelled", "cancelled")
    if asked == ("approved", "needs_approval"):
        return _move(sandbox, row, "needs_approval", "updated")
    if asked == ("needs_approval", "approved"):
        row = _move(sandbox, row, "approved", "approved")
        _set_out(sandbox, row)
        return row
    if row["status"] in ("failed", "returned", "cancelled") and status in ("approved", "needs_approval"):
        row = _move(sandbox, row, status, "redrafted", current_return=None, vendor_failure_reason=None)
        if status == "approved":
            _set_out(sandbox, row)
        return row
    raise invalid("status", f"a payment order that is {row['status']} cannot become {status}.")


def _order(sandbox: Sandbox, row: Row) -> Row:
    external = sandbox.store.get(table("external_account"), row["receiving_account_id"])
    internal = sandbox.store.get(table("internal_account"), row["receiving_account_id"])
    return {**view(row), "receiving_account": view(external or internal)}


def _tell(sandbox: Sandbox, row: Row, event: str) -> None:
    emit(sandbox, "payment_order", event, _order(sandbox, row))


def _move(sandbox: Sandbox, row: Row, status: str, event: str, **fields: Any) -> Row:
    row = change(sandbox, row, status=status, **fields)
    _tell(sandbox, row, event)
    return row


def _set_out(sandbox: Sandbox, row: Row) -> None:
    if row["process_after"] and _instant(row["process_after"]) > sandbox.now():
        sandbox.schedule(_instant(row["process_after"]), "mt.progress", payment_order_id=row["id"])
    else:
        sandbox.soon("mt.progress", payment_order_id=row["id"])


def _instant(text: str) -> datetime:
    return parse(text if "T" in text and re.search(r"(Z|[+-]\d\d:?\d\d)$", text) else text + "+00:00")


@work("mt.progress")
def progress(sandbox: Sandbox, payment_order_id: str) -> None:
    """One hop of the journey; a payment order that was cancelled or failed meanwhile stays where it is."""
    row = fetch(sandbox, "payment_order", payment_order_id)
    number = _account_number(sandbox, row)
    if row["status"] == "approved":
        _move(sandbox, row, "processing", "begin_processing")
    elif row["status"] == "processing":
        if re.fullmatch(r"11111111\d", number):
            fail(sandbox, row)
            return
        trace = {"reference_number_type": "ach_trace_number" if row["type"] == "ach" else "fedwire_imad"}
        reference = new(sandbox, "payment_reference", **trace, reference_number=row["id"][:15])
        _move(sandbox, row, "sent", "finish_processing", reference_numbers=[reference])
    elif row["status"] == "sent":
        direction = "debit" if row["direction"] == "credit" else "credit"
        transaction = post_transaction(sandbox, row, row["originating_account_id"], direction)
        row = _move(
            sandbox,
            row,
            "completed",
            "completed",
            transaction_ids=[*row["transaction_ids"], transaction["id"]],
        )
        if match := re.fullmatch(r"100(\d\d)", number):
            due = business_days(sandbox.now(), sandbox.setting("return_business_days"))
            sandbox.schedule(due, "mt.return", payment_order_id=row["id"], code=f"R{match[1]}")
    elif row["status"] == "completed" and row["reconciliation_status"] == "unreconciled":
        row = change(sandbox, row, reconciliation_status="reconciled")
        _tell(sandbox, row, "reconciled")
        return
    else:
        return
    sandbox.soon("mt.progress", payment_order_id=payment_order_id)


def _account_number(sandbox: Sandbox, row: Row) -> str:
    account = sandbox.store.get(table("external_account"), row["receiving_account_id"])
    details = account["account_details"] if account else []
    return str(details[0]["_account_number"]) if details else ""


def business_days(start: datetime, days: int) -> datetime:
    while days > 0:
        start += timedelta(days=1)
        days -= start.weekday() < 5
    return start


def fail(sandbox: Sandbox, row: Row, reason: str = "The receiving bank rejected the payment.") -> Row:
    if row["status"] not in ("approved", "processing", "sent"):
        raise ApiError(409, "conflict", f"A payment order that is {row['status']} does not fail.")
    return _move(sandbox, row, "failed", "failed", vendor_failure_reason=reason)


@work("mt.return")
def return_later(sandbox: Sandbox, payment_order_id: str, code: str) -> None:
    row = fetch(sandbox, "payment_order", payment_order_id)
    if row["status"] in ("sent", "completed"):
        give_back(sandbox, row, code)


def give_back(sandbox: Sandbox, row: Row, code: str) -> Row:
    """The receiving bank sends a payment order back: a return object, then the order says `returned`."""
    if row["status"] not in ("sent", "completed"):
        raise ApiError(409, "conflict", f"A payment order that is {row['status']} is not returned.")
    direction = "credit" if row["direction"] == "credit" else "debit"
    account = row["originating_account_id"]
    returned = _return(sandbox, row, code if row["type"] == "ach" else None, "receiving", account)
    emit(sandbox, "return", "created", returned)
    row = _move(sandbox, row, "returned", "returned", current_return=view(returned))
    transaction = post_transaction(sandbox, row, account, direction)
    returned = change(sandbox, returned, status="completed", transaction_id=transaction["id"])
    emit(sandbox, "return", "completed", returned)
    return change(sandbox, row, current_return=view(returned))


def _return(sandbox: Sandbox, returnable: Row, code: str | None, role: str, account: str) -> Row:
    row = new(
        sandbox,
        "return",
        discarded_at=None,
        returnable_id=returnable["id"],
        returnable_type=returnable["object"],
        code=code,
        reason=RETURN_REASONS.get(code, f"Returned with code {code}") if code else "Returned by the bank",
        date_of_death=None,
        corrections=None,
        reconciliation_status="unreconciled",
        status="pending",
        transaction_line_item_id=None,
        transaction_id=None,
        internal_account_id=account,
        type=returnable["type"],
        amount=returnable["amount"],
        currency=returnable["currency"],
        failure_reason=None,
        role=role,
        current_return=None,
        reference_numbers=[],
        ledger_transaction_id=None,
    )
    return save(sandbox, row)


@router.get("/api/returns")
def list_returns(sandbox: Sandbox, request: Request) -> Response:
    filters = ("internal_account_id", "returnable_id", "returnable_type")
    return listed(request, sandbox.store.rows(table("return")), filters)


@router.get("/api/returns/{id}")
def get_return(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, view(fetch(sandbox, "return", request.params["id"])))


@router.post("/api/returns")
def create_return(sandbox: Sandbox, request: Request) -> Response:
    """We send an incoming payment back."""
    rules = {
        "returnable_id": str,
        "returnable_type": ("incoming_payment_detail",),
        "code": str,
        "reason": str,
    }
    fields = checked(request.body(), rules, ("returnable_id", "returnable_type"))
    incoming = refer(sandbox, "incoming_payment_detail", fields["returnable_id"], "returnable_id")
    if incoming["status"] == "returned":
        raise invalid("returnable_id", "the incoming payment was already returned.")
    code, account = fields.get("code"), incoming["internal_account_id"]
    row = _return(sandbox, incoming, code, "originating", account)
    emit(sandbox, "return", "created", row)
    direction = "debit" if incoming["direction"] == "credit" else "credit"
    transaction = post_transaction(sandbox, incoming, account, direction)
    row = change(sandbox, row, status="completed", transaction_id=transaction["id"])
    emit(sandbox, "return", "completed", row)
    emit(sandbox, "incoming_payment_detail", "returned", change(sandbox, incoming, status="returned"))
    return Response(201, view(row))

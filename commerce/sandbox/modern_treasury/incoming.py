"""Incoming payments: simulated over the provider's own route, pending first, then posted and matched."""

from datetime import date

from commerce.sandbox.core import Sandbox, work
from commerce.sandbox.modern_treasury.bank import post_transaction
from commerce.sandbox.modern_treasury.base import (
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
from commerce.sandbox.web import Request, Response

IPD_TYPES = (
    "ach", "au_becs", "bacs", "book", "check", "eft", "neft", "nz_becs", "rtp", "sepa", "stablecoin", "wire",
    "zengin",
)  # fmt: skip
INCOMING = {
    "type": IPD_TYPES, "direction": ("credit", "debit"), "amount": int, "currency": str,
    "internal_account_id": str, "virtual_account_id": str, "as_of_date": date, "description": str,
    "subtype": str, "data": dict,
}  # fmt: skip


@router.post("/api/simulations/incoming_payment_details/create_async")
def simulate_incoming(sandbox: Sandbox, request: Request) -> Response:
    fields = checked(request.body(), INCOMING)
    amount = fields.get("amount", 100)
    if amount <= 0:
        raise invalid("amount", "amount must be a positive integer.")
    virtual = None
    if "virtual_account_id" in fields:
        virtual = refer(sandbox, "virtual_account", fields["virtual_account_id"], "virtual_account_id")
    internal_id = fields.get("internal_account_id") or (virtual and virtual["internal_account_id"])
    if not internal_id:
        raise invalid("internal_account_id", "internal_account_id is required.", "parameter_missing")
    internal = refer(sandbox, "internal_account", internal_id, "internal_account_id")
    receiving = (virtual or internal)["account_details"]
    row = new(
        sandbox,
        "incoming_payment_detail",
        internal_account_id=internal_id,
        virtual_account_id=virtual["id"] if virtual else None,
        virtual_account=view(virtual),
        transaction_line_item_id=None,
        transaction_id=None,
        ledger_transaction_id=None,
        type=fields.get("type", "ach"),
        data=fields.get("data", {}),
        amount=amount,
        currency=fields.get("currency", internal["currency"]),
        direction=fields.get("direction", "credit"),
        status="pending",
        metadata={},
        as_of_date=fields.get("as_of_date", today(sandbox)),
        vendor_id=None,
        originating_routing_number="121141822",
        originating_routing_number_type="aba",
        originating_account_number_safe="6789",
        originating_account_number_type="other",
        originating_party_name=fields.get("description", "SIMULATED PAYER"),
        receiving_account_number_safe=receiving[0]["account_number_safe"] if receiving else None,
        subtype=fields.get("subtype"),
        reconciliation_status="unreconciled",
    )
    save(sandbox, row)
    emit(sandbox, "incoming_payment_detail", "created", row)
    sandbox.soon("mt.post_incoming", incoming_payment_detail_id=row["id"])
    return Response(202, {"id": row["id"], "object": "incoming_payment_detail"})


@work("mt.post_incoming")
def post_incoming(sandbox: Sandbox, incoming_payment_detail_id: str) -> None:
    """The funds are posted at the bank: completed, then matched to the statement line."""
    row = fetch(sandbox, "incoming_payment_detail", incoming_payment_detail_id)
    if row["status"] == "pending":
        transaction = post_transaction(sandbox, row, row["internal_account_id"], row["direction"])
        line_item = new(sandbox, "transaction_line_item")
        row = change(
            sandbox,
            row,
            status="completed",
            transaction_id=transaction["id"],
            transaction_line_item_id=line_item["id"],
        )
        emit(sandbox, "incoming_payment_detail", "completed", row)
        sandbox.soon("mt.post_incoming", incoming_payment_detail_id=row["id"])
    elif row["reconciliation_status"] == "unreconciled":
        row = change(sandbox, row, reconciliation_status="reconciled")
        emit(sandbox, "incoming_payment_detail", "reconciled", row)


@router.get("/api/incoming_payment_details")
def list_incoming(sandbox: Sandbox, request: Request) -> Response:
    rows = sandbox.store.rows(table("incoming_payment_detail"))
    rows = between(request, rows, "as_of_date", "as_of_date_start", "as_of_date_end")
    return listed(request, rows, ("direction", "status", "type", "virtual_account_id", "subtype"))


@router.get("/api/incoming_payment_details/{id}")
def get_incoming(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, view(fetch(sandbox, "incoming_payment_detail", request.params["id"])))


@router.patch("/api/incoming_payment_details/{id}")
def update_incoming(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "incoming_payment_detail", request.params["id"])
    fields = checked(request.body(), {"metadata": "metadata"})
    return Response(
        200, view(change(sandbox, row, metadata={**row["metadata"], **fields.get("metadata", {})}))
    )

"""The bank statement's lines, and the list of everything that happened."""

from commerce.sandbox.core import Sandbox
from commerce.sandbox.modern_treasury.base import (
    between,
    emit,
    fetch,
    listed,
    new,
    router,
    save,
    table,
    today,
    view,
)
from commerce.sandbox.store import Row
from commerce.sandbox.web import Request, Response


def post_transaction(sandbox: Sandbox, source: Row, account: str, direction: str) -> Row:
    row = new(
        sandbox,
        "transaction",
        discarded_at=None,
        amount=source["amount"],
        amount_string=str(source["amount"]),
        currency=source["currency"],
        direction=direction,
        vendor_code=None,
        vendor_code_type=None,
        vendor_id=None,
        as_of_date=today(sandbox),
        as_of_time=None,
        as_of_timezone=None,
        internal_account_id=account,
        metadata={},
        posted=True,
        vendor_customer_id=None,
        reconciled=True,
        type=source["type"],
        foreign_exchange_rate=None,
        custom_identifiers={},
    )
    save(sandbox, row)
    emit(sandbox, "transaction", "created", row)
    return row


@router.get("/api/transactions")
def list_transactions(sandbox: Sandbox, request: Request) -> Response:
    rows = sandbox.store.rows(table("transaction"))
    rows = between(request, rows, "as_of_date", "as_of_date_start", "as_of_date_end")
    return listed(request, rows, ("internal_account_id", "direction"))


@router.get("/api/transactions/{id}")
def get_transaction(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, view(fetch(sandbox, "transaction", request.params["id"])))


@router.get("/api/events")
def list_events(sandbox: Sandbox, request: Request) -> Response:
    rows = between(
        request, sandbox.store.rows(table("event")), "event_time", "event_time_start", "event_time_end"
    )
    return listed(request, rows, ("resource", "entity_id", "event_name"))


@router.get("/api/events/{id}")
def get_event(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, view(fetch(sandbox, "event", request.params["id"])))

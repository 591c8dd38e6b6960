"""Counterparties, external, internal and virtual accounts. Full account numbers go in, never out."""

import os
from typing import Any

from commerce.sandbox.core import Sandbox
from commerce.sandbox.modern_treasury.base import (
    change,
    checked,
    fetch,
    invalid,
    listed,
    new,
    refer,
    router,
    save,
    seconds,
    table,
    view,
)
from commerce.sandbox.store import Row
from commerce.sandbox.web import Request, Response

DEFAULT_INTERNAL_ACCOUNT_ID = "0f8e3719-3dfd-4613-9bbf-c0333781b59f"
ACCOUNT_TYPES = (
    "cash",
    "checking",
    "general_ledger",
    "loan",
    "non_resident",
    "other",
    "overdraft",
    "savings",
)
NUMBER_TYPES = (
    "clabe",
    "iban",
    "other",
    "pan",
    "au_number",
    "hk_number",
    "nz_number",
    "sg_number",
    "id_number",
)
ROUTING_TYPES = (
    "aba", "au_bsb", "br_codigo", "ca_cpa", "chips", "cnaps", "dk_interbank_clearing_code", "gb_sort_code",
    "hk_interbank_clearing_code", "il_bank_code", "in_ifsc", "jp_zengin_code", "mx_bank_identifier",
    "my_branch_code", "nz_national_clearing_code", "pl_national_clearing_code", "se_bankgiro_clearing_code",
    "sg_interbank_clearing_code", "swift", "za_national_clearing_code",
)  # fmt: skip
COUNTERPARTY = {
    "name": str, "email": str, "external_id": str, "metadata": "metadata", "accounts": list,
    "send_remittance_advice": bool, "legal_entity_id": str, "taxpayer_identifier": str,
}  # fmt: skip
EXTERNAL_ACCOUNT = {
    "account_type": ACCOUNT_TYPES, "party_type": ("business", "individual"), "party_address": dict,
    "name": str, "party_name": str, "external_id": str, "metadata": "metadata", "account_details": list,
    "routing_details": list, "contact_details": list,
}  # fmt: skip
VIRTUAL_ACCOUNT = {
    "name": str, "description": str, "counterparty_id": str, "internal_account_id": str,
    "account_details": list, "routing_details": list, "metadata": "metadata",
}  # fmt: skip


def seed(sandbox: Sandbox) -> None:
    """Our one bank account, under the id the application is configured with."""
    identity = os.environ.get("MODERN_TREASURY_INTERNAL_ACCOUNT_ID") or DEFAULT_INTERNAL_ACCOUNT_ID
    if sandbox.store.get(table("internal_account"), identity):
        return
    vendor = {"vendor_id": "example1", "vendor_customer_id": None, "vendor_name": "Gringotts"}
    connection = new(sandbox, "connection", discarded_at=None, **vendor)
    capabilities = [
        new(
            sandbox,
            "account_capability",
            discarded_at=None,
            direction=direction,
            identifier=None,
            payment_type=kind,
        )
        for direction in ("credit", "debit")
        for kind in ("ach", "wire", "rtp")
    ]
    account = new(
        sandbox,
        "internal_account",
        account_type="checking",
        party_name="Platform",
        party_type="business",
        party_address=None,
        name="Operating account",
        account_details=[_account_detail(sandbox, {"account_number": "400100200300"}, "account_details")],
        account_capabilities=capabilities,
        routing_details=[
            _routing_detail(sandbox, {"routing_number": "121141822", "routing_number_type": "aba"})
        ],
        connection=connection,
        currency="USD",
        metadata={},
        parent_account_id=None,
        counterparty_id=None,
        vendor_id=None,
        legal_entity_id=None,
        status="active",
        ledger_account_id=None,
        contra_ledger_account_id=None,
        external_id=None,
        debitable=True,
    )
    save(sandbox, {**account, "id": identity})


@router.post("/api/counterparties")
def create_counterparty(sandbox: Sandbox, request: Request) -> Response:
    body = request.body()
    if "name" not in body:
        raise invalid("name", "name is required.", "parameter_missing")
    fields = checked(body, COUNTERPARTY)
    row = new(
        sandbox,
        "counterparty",
        discarded_at=None,
        name=fields.get("name"),
        email=fields.get("email"),
        legal_entity_id=fields.get("legal_entity_id"),
        metadata=fields.get("metadata", {}),
        external_id=fields.get("external_id"),
        send_remittance_advice=fields.get("send_remittance_advice", False),
        verification_status="unverified",
    )
    save(sandbox, row)
    for account in fields.get("accounts", []):
        if not isinstance(account, dict):
            raise invalid("accounts", "accounts must hold objects.")
        add_external_account(sandbox, row, account)
    return Response(201, _counterparty(sandbox, row))


@router.get("/api/counterparties")
def list_counterparties(sandbox: Sandbox, request: Request) -> Response:
    rows = sandbox.store.rows(table("counterparty"))
    page = listed(request, rows, ("name", "email", "external_id", "legal_entity_id"))
    return Response(200, [_counterparty(sandbox, row) for row in page.body], page.headers)


@router.get("/api/counterparties/{id}")
def get_counterparty(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, _counterparty(sandbox, fetch(sandbox, "counterparty", request.params["id"])))


@router.patch("/api/counterparties/{id}")
def update_counterparty(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "counterparty", request.params["id"])
    fields = checked(request.body(), {k: v for k, v in COUNTERPARTY.items() if k != "accounts"})
    fields["metadata"] = {**row["metadata"], **fields.get("metadata", {})}
    return Response(200, _counterparty(sandbox, change(sandbox, row, **fields)))


@router.delete("/api/counterparties/{id}")
def delete_counterparty(sandbox: Sandbox, request: Request) -> Response:
    change(sandbox, fetch(sandbox, "counterparty", request.params["id"]), discarded_at=seconds(sandbox))
    return Response(204)


def _counterparty(sandbox: Sandbox, row: Row) -> Row:
    accounts = [
        account
        for account in sandbox.store.rows(table("external_account"))
        if account["counterparty_id"] == row["id"] and not account["discarded_at"]
    ]
    return {**view(row), "accounts": view(accounts)}


def add_external_account(sandbox: Sandbox, counterparty: Row, body: dict[str, Any]) -> Row:
    fields = checked(body, EXTERNAL_ACCOUNT)
    details = fields.get("account_details", [])
    routing = fields.get("routing_details", [])
    row = new(
        sandbox,
        "external_account",
        discarded_at=None,
        account_type=fields.get("account_type", "other"),
        party_type=fields.get("party_type"),
        party_address=_address(sandbox, fields.get("party_address")),
        name=fields.get("name"),
        counterparty_id=counterparty["id"],
        account_details=[_account_detail(sandbox, detail, "account_details") for detail in details],
        routing_details=[_routing_detail(sandbox, detail) for detail in routing],
        external_id=fields.get("external_id"),
        metadata=fields.get("metadata", {}),
        party_name=fields.get("party_name") or counterparty["name"],
        contact_details=[],
        ledger_account_id=None,
        card_id=None,
        verification_status="unverified",
        verification_source=None,
    )
    return save(sandbox, row)


@router.post("/api/external_accounts")
def create_external_account(sandbox: Sandbox, request: Request) -> Response:
    body = request.body()
    checked(body, {"counterparty_id": str}, ("counterparty_id",))
    counterparty = refer(sandbox, "counterparty", body["counterparty_id"], "counterparty_id")
    return Response(201, view(add_external_account(sandbox, counterparty, body)))


@router.get("/api/external_accounts")
def list_external_accounts(sandbox: Sandbox, request: Request) -> Response:
    rows = sandbox.store.rows(table("external_account"))
    return listed(request, rows, ("party_name", "counterparty_id", "external_id"))


@router.get("/api/external_accounts/{id}")
def get_external_account(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, view(fetch(sandbox, "external_account", request.params["id"])))


@router.patch("/api/external_accounts/{id}")
def update_external_account(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "external_account", request.params["id"])
    rules = {k: v for k, v in EXTERNAL_ACCOUNT.items() if not k.endswith("_details") and k != "party_address"}
    fields = checked(request.body(), rules)
    fields["metadata"] = {**row["metadata"], **fields.get("metadata", {})}
    return Response(200, view(change(sandbox, row, **fields)))


@router.delete("/api/external_accounts/{id}")
def delete_external_account(sandbox: Sandbox, request: Request) -> Response:
    change(sandbox, fetch(sandbox, "external_account", request.params["id"]), discarded_at=seconds(sandbox))
    return Response(204)


def _details(kind: str) -> None:
    """account_details and routing_details of an external account: list, read, add, remove; no update."""
    name = f"{kind}_details"
    base = f"/api/{{accounts_type}}/{{account_id}}/{name}"

    def account(sandbox: Sandbox, request: Request) -> Row:
        singular = {"external_accounts": "external_account", "internal_accounts": "internal_account"}
        resource = singular.get(request.params["accounts_type"], "")
        return fetch(sandbox, resource or "account", request.params["account_id"])

    def listing(sandbox: Sandbox, request: Request) -> Response:
        return listed(request, account(sandbox, request)[name])

    def read(sandbox: Sandbox, request: Request) -> Response:
        for detail in account(sandbox, request)[name]:
            if detail["id"] == request.params["id"]:
                return Response(200, view(detail))
        fetch(sandbox, f"{kind}_detail", request.params["id"])
        raise AssertionError("unreachable")

    def create(sandbox: Sandbox, request: Request) -> Response:
        owner, body = account(sandbox, request), request.body()
        detail = (
            _account_detail(sandbox, body, "") if kind == "account" else _routing_detail(sandbox, body, "")
        )
        change(sandbox, owner, **{name: [*owner[name], detail]})
        return Response(201, view(detail))

    def delete(sandbox: Sandbox, request: Request) -> Response:
        owner = account(sandbox, request)
        read(sandbox, request)
        kept = [detail for detail in owner[name] if detail["id"] != request.params["id"]]
        change(sandbox, owner, **{name: kept})
        return Response(204)

    router.get(base)(listing)
    router.post(base)(create)
    router.get(base + "/{id}")(read)
    router.delete(base + "/{id}")(delete)


_details("account")
_details("routing")


@router.get("/api/internal_accounts")
def list_internal_accounts(sandbox: Sandbox, request: Request) -> Response:
    rows = sandbox.store.rows(table("internal_account"))
    return listed(request, rows, ("currency", "counterparty_id", "status", "external_id"))


@router.get("/api/internal_accounts/{id}")
def get_internal_account(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, view(fetch(sandbox, "internal_account", request.params["id"])))


@router.post("/api/virtual_accounts")
def create_virtual_account(sandbox: Sandbox, request: Request) -> Response:
    fields = checked(request.body(), VIRTUAL_ACCOUNT, ("name", "internal_account_id"))
    refer(sandbox, "internal_account", fields["internal_account_id"], "internal_account_id")
    if "counterparty_id" in fields:
        refer(sandbox, "counterparty", fields["counterparty_id"], "counterparty_id")
    number = f"9{sandbox.store.count('virtual_account_number'):011d}"
    details = fields.get("account_details") or [{"account_number": number}]
    routing = fields.get("routing_details") or [{"routing_number": "121141822", "routing_number_type": "aba"}]
    row = new(
        sandbox,
        "virtual_account",
        discarded_at=None,
        name=fields["name"],
        description=fields.get("description"),
        counterparty_id=fields.get("counterparty_id"),
        internal_account_id=fields["internal_account_id"],
        account_details=[_account_detail(sandbox, detail, "account_details") for detail in details],
        routing_details=[_routing_detail(sandbox, detail) for detail in routing],
        debit_ledger_account_id=None,
        credit_ledger_account_id=None,
        ledger_account_id=None,
        metadata=fields.get("metadata", {}),
    )
    return Response(201, view(save(sandbox, row)))


@router.get("/api/virtual_accounts")
def list_virtual_accounts(sandbox: Sandbox, request: Request) -> Response:
    rows = sandbox.store.rows(table("virtual_account"))
    return listed(request, rows, ("internal_account_id", "counterparty_id"))


@router.get("/api/virtual_accounts/{id}")
def get_virtual_account(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, view(fetch(sandbox, "virtual_account", request.params["id"])))


@router.patch("/api/virtual_accounts/{id}")
def update_virtual_account(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "virtual_account", request.params["id"])
    fields = checked(request.body(), {"name": str, "counterparty_id": str, "metadata": "metadata"})
    fields["metadata"] = {**row["metadata"], **fields.get("metadata", {})}
    return Response(200, view(change(sandbox, row, **fields)))


@router.delete("/api/virtual_accounts/{id}")
def delete_virtual_account(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "virtual_account", request.params["id"])
    return Response(200, view(change(sandbox, row, discarded_at=seconds(sandbox))))


def _account_detail(sandbox: Sandbox, body: Any, parameter: str) -> Row:
    if not isinstance(body, dict):
        raise invalid(parameter, f"{parameter} must hold objects.")
    rules = {"account_number": str, "account_number_type": NUMBER_TYPES}
    fields = checked(body, rules, ("account_number",))
    return new(
        sandbox,
        "account_detail",
        discarded_at=None,
        account_number_type=fields.get("account_number_type", "other"),
        account_number_safe=fields["account_number"][-4:],
        _account_number=fields["account_number"],
    )


def _routing_detail(sandbox: Sandbox, body: Any, parameter: str = "routing_details") -> Row:
    if not isinstance(body, dict):
        raise invalid(parameter, f"{parameter} must hold objects.")
    rules = {"routing_number": str, "routing_number_type": ROUTING_TYPES, "payment_type": str}
    fields = checked(body, rules, ("routing_number", "routing_number_type"))
    number = fields["routing_number"]
    if fields["routing_number_type"] == "aba" and not _valid_aba(number):
        raise invalid("routing_number", f"{number} is not a valid ABA routing number.")
    return new(
        sandbox,
        "routing_detail",
        discarded_at=None,
        routing_number=number,
        routing_number_type=fields["routing_number_type"],
        payment_type=fields.get("payment_type"),
        bank_name="GRINGOTTS BANK",
        bank_address=None,
    )


def _valid_aba(number: str) -> bool:
    if len(number) != 9 or not number.isascii() or not number.isdigit():
        return False
    return sum(int(digit) * weight for digit, weight in zip(number, (3, 7, 1) * 3, strict=True)) % 10 == 0


def _address(sandbox: Sandbox, body: dict[str, Any] | None) -> Row | None:
    if body is None:
        return None
    names = ("line1", "line2", "locality", "region", "postal_code", "country")
    return new(sandbox, "address", **{name: body.get(name) for name in names})

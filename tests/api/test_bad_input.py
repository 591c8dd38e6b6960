"""Bad input is a problem that names its place, writes nothing, and stands in nobody's way afterwards."""

import copy
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from commerce.api.models import IdempotencyKey
from ledger.models import LedgerAccount
from tests.api.conftest import Api, Deal, contents, contract_payload
from tests.api.test_tenancy import PLACES, WITHOUT_AN_ID

MAX = 2**53 - 1
NOBODY = "019cd0a1-7b00-7000-8000-00000000dead"
BANK = {"account_number": "987654321098", "routing_number": "121141822"}
ORGANIZATION = {
    "name": "Initech",
    "roles": ["seller"],
    "country": "US",
    "currency": "USD",
    "bank_account": BANK,
}
EXPORT = {"source": "ledger.entries", "format": "jsonl", "parameters": {}}
REASON = {"reason": "test"}


def usage(deal: Deal, **event: Any) -> dict[str, Any]:
    given = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "meter",
        "time": "2027-03-02T00:00:00Z",
        "data": {"line_id": deal.burst, "quantity": "8.5"},
    }
    return {"contract_id": str(deal.contract.pk), "events": [{**given, **event}]}


def change(deal: Deal, **payload: Any) -> dict[str, Any]:
    given = {"line_id": deal.servers, "quantity": 3, **payload}
    return {"operation": "change_quantity", "payload": given, "effective_at": "2027-04-02T00:00:00Z"}


def batch(deal: Deal) -> dict[str, Any]:
    return {"operations": [change(deal), {**change(deal), "payload": {"line_id": deal.servers, "delta": 1}}]}


def correction(deal: Deal) -> dict[str, Any]:
    """Of going live: the signed contract never did."""
    void = {"operation": "correct", "payload": {"target_seq": 4, "mode": "void"}, "reason": "Too early"}
    return {"operations": [void], "reason": "It was not delivered."}


def service(deal: Deal) -> dict[str, Any]:
    report = {
        "id": "probe-1",
        "source": "dcim/eu-1",
        "unit_id": "eu1-r07-u12",
        "state": "in_service",
        "at": "2027-03-02T00:00:00Z",
        "contract_id": str(deal.contract.pk),
        "line_id": deal.servers,
    }
    return {"events": [report]}


def contract(deal: Deal) -> dict[str, Any]:
    return contract_payload(deal.buyer, deal.seller, deal.partner)


def new_offer(deal: Deal) -> dict[str, Any]:
    return {
        "seller_id": str(deal.seller.pk),
        "code": "burst",
        "product": "h100-burst",
        "currency": "USD",
        "price": {"model": "graduated", "tiers": [{"up_to": "100", "rate": "2.00"}, {"rate": "1.50"}]},
    }


def reversal(deal: Deal) -> dict[str, Any]:
    """Five cents of tax back into the wallet."""
    tax = LedgerAccount.objects.get(kind="TAX_PAYABLE")
    parts = [
        {"account_id": account.pk, "amount": {"amount_minor": 5, "currency": "USD"}}
        for account in (tax, deal.wallet)
    ]
    return {"reason": "test", "parts": parts}


# What is right: each request succeeds as it stands here.
Request = tuple[str, Callable[[Deal], str], Callable[[Deal], Any], int]
RIGHT: dict[str, Request] = {
    "organizations": ("POST", lambda d: "organizations/", lambda d: ORGANIZATION, 201),
    "bank account": ("POST", lambda d: f"organizations/{d.seller.pk}/bank-accounts/", lambda d: BANK, 201),
    "contract": ("POST", lambda d: "contracts/", contract, 201),
    "operation": ("POST", lambda d: f"contracts/{d.contract.pk}/operations/", change, 201),
    "preview": ("POST", lambda d: f"contracts/{d.contract.pk}/preview/", change, 200),
    "batch": ("POST", lambda d: f"contracts/{d.contract.pk}/batches/", batch, 201),
    "batch preview": ("POST", lambda d: f"contracts/{d.contract.pk}/batches/preview/", batch, 200),
    "approval": ("POST", lambda d: f"contracts/{d.contract.pk}/approvals/", correction, 201),
    "service": ("POST", lambda d: "service-events/", service, 201),
    "offer": ("POST", lambda d: "offers/", new_offer, 201),
    "offers": ("POST", lambda d: "offers/imports/", lambda d: {"offers": [new_offer(d)]}, 200),
    "revision": ("POST", lambda d: f"offers/{d.offer.pk}/revisions/", lambda d: {"terms": "As agreed."}, 201),
    "capacity": ("POST", lambda d: f"offers/{d.offer.pk}/capacity/", lambda d: {"capacity": 11}, 200),
    "withdraw": ("POST", lambda d: f"offers/{d.offer.pk}/withdraw/", lambda d: REASON, 200),
    "usage": ("POST", lambda d: "usage-events/", usage, 202),
    "payout": (
        "POST",
        lambda d: "payouts/",
        lambda d: {"payee_id": str(d.partner.pk), "amount": {"amount_minor": 5, "currency": "USD"}},
        201,
    ),
    "cancel": ("POST", lambda d: f"payouts/{d.payout.pk}/cancel/", lambda d: REASON, 200),
    "policy": (
        "PUT",
        lambda d: f"payout-policies/{d.seller.pk}/",
        lambda d: {"mode": "scheduled", "cadence": "weekly", "day": 1, "minimum_minor": 100},
        200,
    ),
    "export": ("POST", lambda d: "exports/", lambda d: EXPORT, 201),
    "reversal": (
        "POST",
        lambda d: f"ledger/transactions/{d.collection.pk}/reversal-requests/",
        reversal,
        201,
    ),
}
# Requests that the two deals do not allow as they stand; what is wrong with their form comes first.
STRICT = {
    **RIGHT,
    "accept": ("POST", lambda d: f"invoices/{d.invoice.pk}/accept/", lambda d: REASON, 409),
    "approve": ("POST", lambda d: f"payouts/{d.payout.pk}/approve/", lambda d: REASON, 409),
    "reject": ("POST", lambda d: f"payouts/{d.payout.pk}/reject/", lambda d: REASON, 409),
    "give up": ("POST", lambda d: f"payouts/{d.payout.pk}/giving-up-requests/", lambda d: REASON, 409),
}
every_request = pytest.mark.parametrize("name", STRICT)


def send(api: Api, deal: Deal, name: str, body: Any = None, **more: Any) -> Any:
    method, path, right, _ = STRICT[name]
    if body is None and "raw" not in more:
        body = right(deal)
    headers = {"If_Match": f'"{type(deal.contract).objects.get(pk=deal.contract.pk).version}"', **more}
    return api(method, path(deal), body, **headers)


def refused(answer: Any, status: int | tuple[int, ...], code: str = "", pointer: str | None = None) -> None:
    assert answer.status_code in ((status,) if isinstance(status, int) else status), answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:commerce:problem:{body['code']}"
    assert body["status"] == answer.status_code
    assert body["detail"]
    assert body["request_id"] == answer["X-Request-ID"]
    codes = {body["code"], *(error["code"] for error in body["errors"])}
    assert not code or code in codes, body
    if pointer is not None:
        assert pointer in [error["pointer"] for error in body["errors"]], body


def altered(body: dict[str, Any], pointer: str, value: Any) -> dict[str, Any]:
    """A copy with one place replaced, or removed when `value` is `...`."""
    body = copy.deepcopy(body)
    *path, last = [int(step) if step.isdigit() else step for step in pointer.strip("/").split("/")]
    place: Any = body
    for step in path:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return body


def test_every_unsafe_address_is_sent_something_here(ours: Deal) -> None:
    here = {f"{method} {path(ours)}" for method, path, _, _ in STRICT.values()}
    there = {f"{m} {path.format(*of(ours).split())}" for m, path, of, _ in PLACES if m != "GET"}
    without_body = {route for route in there if route.endswith(("/poll/", "/publish/"))}
    elsewhere = {r for r in there | WITHOUT_AN_ID if " webhook-" in r}  # with their own API's tests
    assert here == (there | WITHOUT_AN_ID) - without_body - elsewhere


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_request_works_once_however_often_it_is_sent(platform: Api, ours: Deal, name: str) -> None:
    status = RIGHT[name][3]
    version = f'"{ours.contract.version}"'
    body = RIGHT[name][2](ours)
    first = send(platform, ours, name, body, Idempotency_Key="one", If_Match=version)
    assert first.status_code == status, first.content
    before = contents()
    again = send(platform, ours, name, body, Idempotency_Key="one", If_Match=version)
    assert (again.status_code, again.json()) == (status, first.json())
    assert again["Idempotent-Replay"] == "true"
    other = send(platform, ours, name, {**body, "x": 1}, Idempotency_Key="one", If_Match=version)
    refused(other, 422, "idempotency_mismatch")
    assert contents() == before


@every_request
def test_what_is_wrong_with_the_form_is_refused_and_the_right_request_works_after_it(
    platform: Api, ours: Deal, name: str
) -> None:
    _, _, right, status = STRICT[name]
    body = right(ours)
    before = contents()
    refused(send(platform, ours, name, Idempotency_Key=""), 400, "idempotency_key_missing")
    refused(send(platform, ours, name, Idempotency_Key="x" * 256), 400, "idempotency_key_invalid")
    refused(send(platform, ours, name, raw='{"a": '), 400, "malformed_json")
    refused(send(platform, ours, name, raw=b"\xff\xfe{}"), 400, "malformed_json")
    refused(send(platform, ours, name, raw='{"reason": "a", "reason": "b"}'), 400, "malformed_json")
    refused(send(platform, ours, name, raw='{"reason": NaN}'), 400, "malformed_json")
    for raw in ("", "[]", '"text"', "7", "null", "true"):
        refused(send(platform, ours, name, raw=raw), (400, 422))
    deep = '{"reason": ' + "[" * 25 + "]" * 25 + "}"
    refused(send(platform, ours, name, raw=deep), 400, "too_deep", "/reason" + "/0" * 20)
    refused(send(platform, ours, name, raw="[" * 100_000), 400)
    refused(send(platform, ours, name, {**body, "odd": 2**53}), 400, "number_too_large", "/odd")
    refused(send(platform, ours, name, {**body, "odd": -(2**53)}), 400, "number_too_large", "/odd")
    refused(send(platform, ours, name, {**body, "odd": "a\0b"}), 400, "invalid_text", "/odd")
    refused(send(platform, ours, name, {**body, "a\0b": 1}), 400, "invalid_text")
    refused(send(platform, ours, name, raw='{"odd": "\\ud800"}'), 400, "invalid_text", "/odd")
    refused(send(platform, ours, name, {**body, "colour": "red"}), (400, 422), "unknown_field", "/colour")
    refused(send(platform, ours, name, raw=json.dumps({**body, "x": "y" * 1_100_000})), 413)
    refused(send(platform, ours, name, Content_Type="text/plain"), 415, "unsupported_media_type")
    refused(send(platform, ours, name, Content_Type="application/x-www-form-urlencoded"), 415)
    refused(send(platform, ours, name, {}), (400, 422))
    assert contents() == before
    after = send(platform, ours, name)
    assert after.status_code == status, after.content


@every_request
def test_a_refusal_is_remembered_under_its_key_and_writes_nothing(
    platform: Api, ours: Deal, name: str
) -> None:
    before = contents()
    bad = {**STRICT[name][2](ours), "colour": "red"}
    first = send(platform, ours, name, bad, Idempotency_Key="one")
    again = send(platform, ours, name, bad, Idempotency_Key="one")
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    refused(send(platform, ours, name, Idempotency_Key="one"), 422, "idempotency_mismatch")
    assert IdempotencyKey.objects.filter(key="one").count() == 1
    assert contents() == before


TOO_LONG = "x" * 5_000
WRONG: list[tuple[str, str, Any, int | tuple[int, ...], str, str | None]] = [
    # request, place, value, status, code, pointer (None: the place)
    ("organizations", "/name", "", 400, "blank", None),
    ("organizations", "/name", TOO_LONG, 400, "max_length", None),
    ("organizations", "/name", True, 400, "invalid", None),
    ("organizations", "/roles", [], 400, "min_length", None),
    ("organizations", "/roles", "seller", 400, "not_a_list", None),
    ("organizations", "/roles", ["king"], 400, "invalid_choice", "/roles/0"),
    ("organizations", "/roles", ["platform"], 400, "invalid_choice", "/roles/0"),
    ("organizations", "/country", "usa", 400, "max_length", None),
    ("organizations", "/country", "12", (400, 422), "", None),
    ("organizations", "/currency", "XXX", 422, "", None),
    ("organizations", "/currency", 840, (400, 422), "", None),
    ("organizations", "/bank_account/account_number", "", 400, "blank", None),
    ("organizations", "/bank_account/account_number", 987654321098, (400, 422), "", None),
    ("organizations", "/bank_account/routing_number", "12-x", 422, "", None),
    ("organizations", "/bank_account/iban", "x", 400, "unknown_field", None),
    ("bank account", "/account_number", ..., 400, "required", None),
    ("bank account", "/account_number", [], 400, "invalid", None),
    ("bank account", "/routing_number", "0", 422, "", None),
    ("contract", "/buyer_id", NOBODY, 422, "", None),
    ("contract", "/buyer_id", "acme", 422, "", None),
    ("contract", "/currency", "XXX", 422, "", None),
    ("contract", "/currency", "usd", 422, "", None),
    ("contract", "/start_at", "2027-03-01T00:00:00", 422, "invalid_instant", None),
    ("contract", "/start_at", "2027-03-01", 422, "invalid_instant", None),
    ("contract", "/start_at", 0, 422, "", None),
    ("contract", "/term/months", 0, 422, "", None),
    ("contract", "/term/months", True, 422, "", None),
    ("contract", "/term/months", MAX, 422, "", None),
    ("contract", "/billing/anchor_day", 32, 422, "", None),
    ("contract", "/terms/tax/rate", "-0.1", 422, "", None),
    ("contract", "/terms/tax/rate", "NaN", 422, "", None),
    ("contract", "/terms/tax/rate", 0.0825, 422, "", None),
    ("contract", "/terms/settlement/fee_rate", "1.5", 422, "", None),
    ("contract", "/terms/settlement/partner_id", NOBODY, 422, "", None),
    ("contract", "/terms/payment/net_days", "14", 422, "", None),
    ("contract", "/terms/payment/net_days", MAX, 422, "", None),
    ("contract", "/lines", {}, 422, "", None),
    ("contract", "/lines/0/product", "b200", 422, "", None),
    ("contract", "/lines/0/quantity", -1, 422, "", None),
    ("contract", "/lines/0/quantity", 0, 422, "", None),
    ("contract", "/lines/0/quantity", True, 422, "", None),
    ("contract", "/lines/0/quantity", "2", 422, "", None),
    ("contract", "/lines/0/quantity", 1.5, 422, "", None),
    ("contract", "/lines/0/quantity", MAX, 422, "", None),
    ("contract", "/lines/0/price/rate", "-1", 422, "", None),
    ("contract", "/lines/0/price/rate", "1e400", 422, "", None),
    ("contract", "/lines/0/price/rate", "9" * 60, 422, "", None),
    ("contract", "/lines/0/price/rate", 18000, 422, "", None),
    ("contract", "/lines/0/seller_id", NOBODY, 422, "", None),
    ("contract", "/lines/0/line_id", "first", 422, "", None),
    ("contract", "/lines/0/colour", "red", 400, "unknown_field", None),
    ("operation", "/operation", "explode", 422, "unknown_operation", None),
    ("operation", "/operation", ["activate"], 400, "invalid", None),
    ("operation", "/payload", [], 422, "", None),
    ("operation", "/payload/quantity", -1, 422, "", None),
    ("operation", "/payload/quantity", True, 422, "", None),
    ("operation", "/payload/quantity", "3", 422, "", None),
    ("operation", "/payload/quantity", MAX, 422, "", None),
    ("operation", "/payload/line_id", NOBODY, 404, "line_not_found", None),
    ("operation", "/payload/line_id", "x", 422, "", None),
    ("operation", "/effective_at", "2027-04-02T00:00:00", 400, "invalid_instant", None),
    ("operation", "/effective_at", "0001-01-01T00:00:00Z", 422, "", None),
    ("operation", "/effective_at", "9999-12-31T23:59:59Z", 422, "", None),
    ("operation", "/reason", TOO_LONG, 400, "max_length", None),
    ("preview", "/payload/quantity", -1, 422, "", None),
    ("preview", "/effective_at", "tomorrow", 400, "invalid_instant", None),
    ("batch", "/operations", ..., 400, "required", None),
    ("batch", "/operations", [], 400, "min_length", None),
    ("batch", "/operations", {}, 400, "not_a_list", None),
    ("batch", "/operations/1", "suspend", 400, "", None),
    ("batch", "/operations/1/operation", "explode", 422, "unknown_operation", None),
    ("batch", "/operations/1/operation", "create", 422, "", None),
    ("batch", "/operations/1/payload", [], 422, "invalid_type", None),
    ("batch", "/operations/1/payload", None, (400, 422), "", None),
    ("batch", "/operations/1/payload/delta", 0, 422, "no_effect", "/operations/1"),
    ("batch", "/operations/1/payload/delta", MAX, 422, "", None),
    ("batch", "/operations/1/payload/line_id", NOBODY, 404, "line_not_found", None),
    ("batch", "/operations/1/payload/colour", "red", 400, "unknown_field", None),
    ("batch", "/operations/1/effective_at", "2027-04-02", 400, "invalid_instant", None),
    ("batch", "/operations/1/effective_at", "0001-01-01T00:00:00Z", 422, "", None),
    ("batch", "/operations/1/reason", TOO_LONG, 400, "max_length", None),
    ("batch preview", "/operations", [], 400, "min_length", None),
    ("batch preview", "/operations/0/payload/quantity", -1, 422, "", None),
    ("approval", "/reason", "", 400, "blank", None),
    ("approval", "/reason", ..., 400, "required", None),
    ("approval", "/operations/0/operation", "explode", 422, "unknown_operation", None),
    ("approval", "/operations/0/payload/target_seq", 99, (404, 409, 422), "", None),
    ("approval", "/operations/0/payload/target_seq", True, 422, "", None),
    ("approval", "/operations/0/payload/mode", "undo", 422, "invalid_choice", None),
    ("service", "/events", [], 400, "min_length", None),
    ("service", "/events", ..., 400, "required", None),
    ("service", "/events/0/id", "", 400, "blank", None),
    ("service", "/events/0/id", 7, 400, "invalid", None),
    ("service", "/events/0/source", TOO_LONG, 400, "max_length", None),
    ("service", "/events/0/state", "on_fire", 400, "invalid_choice", None),
    ("service", "/events/0/at", "2027-03-02T00:00:00", 400, "invalid_instant", None),
    ("service", "/events/0/at", "2099-01-01T00:00:00Z", 422, "", None),
    ("service", "/events/0/contract_id", NOBODY, (404, 422), "", None),
    ("service", "/events/0/line_id", NOBODY, (404, 422), "", None),
    ("service", "/events/0/line_id", "first", 400, "invalid", None),
    ("service", "/events/0/detail", [], 400, "not_a_dict", None),
    ("service", "/events/0/unit", "x", 400, "unknown_field", None),
    ("offer", "/seller_id", NOBODY, (404, 422), "", None),
    ("offer", "/code", "", 422, "", None),
    ("offer", "/product", "b200", 422, "", None),
    ("offer", "/currency", "XXX", 422, "", None),
    ("offer", "/price/model", "barter", 422, "", None),
    ("offer", "/price/tiers", [], 422, "", None),
    ("offer", "/price/tiers/0/rate", "NaN", 422, "", None),
    ("offer", "/price/tiers/0/up_to", ..., 422, "tiers_invalid", None),
    ("offer", "/colour", "red", 400, "unknown_field", None),
    ("offers", "/offers", ..., 400, "required", None),
    ("offers", "/offers/0/price/tiers/1/rate", "-1", 422, "", None),
    ("offers", "/offers/0/colour", "red", (400, 422), "unknown_field", None),
    ("offers", "/offers/0/code", ..., (400, 422), "", None),
    ("capacity", "/capacity", -1, 400, "min_value", None),
    ("capacity", "/capacity", True, 400, "invalid", None),
    ("capacity", "/capacity", ..., 400, "required", None),
    ("usage", "/contract_id", NOBODY, 404, "", None),
    ("usage", "/contract_id", 7, 400, "invalid", None),
    ("usage", "/events", [], 400, "min_length", None),
    ("usage", "/events/0/specversion", "0.3", 400, "invalid_choice", None),
    ("usage", "/events/0/time", "2027-03-02T00:00:00", 400, "invalid_instant", None),
    ("usage", "/events/0/time", "2099-01-01T00:00:00Z", 422, "", None),
    ("usage", "/events/0/id", "", 400, "blank", None),
    ("usage", "/events/0/id", TOO_LONG, 400, "max_length", None),
    ("usage", "/events/0/type", "another_meter", 422, "", None),
    ("usage", "/events/0/data/line_id", NOBODY, 422, "", None),
    ("usage", "/events/0/data/quantity", "-1", 422, "", None),
    ("usage", "/events/0/data/quantity", "NaN", 422, "", None),
    ("usage", "/events/0/data/quantity", "Infinity", 422, "", None),
    ("usage", "/events/0/data/quantity", "1e999999999", 422, "", None),
    ("usage", "/events/0/data/quantity", "9" * 40, 422, "", None),
    ("usage", "/events/0/data/quantity", "0.0000000000000000001", 422, "", None),
    ("usage", "/events/0/data/quantity", "８", 422, "", None),
    ("usage", "/events/0/data/quantity", "1_000", 422, "", None),
    ("usage", "/events/0/data/quantity", True, 400, "invalid", None),
    ("usage", "/events/0/data/x", 1, 400, "unknown_field", None),
    ("payout", "/payee_id", NOBODY, 422, "unknown_payee", None),
    ("payout", "/payee_id", "me", 400, "invalid", None),
    ("payout", "/amount/amount_minor", 0, 400, "amount_too_small", None),
    ("payout", "/amount/amount_minor", -5, 400, "amount_too_small", None),
    ("payout", "/amount/amount_minor", "5", 400, "amount_not_integer", None),
    ("payout", "/amount/amount_minor", True, 400, "amount_not_integer", None),
    ("payout", "/amount/amount_minor", 5.0, 400, "amount_not_integer", None),
    ("payout", "/amount/amount_minor", 2**53, 400, "number_too_large", None),
    ("payout", "/amount/amount_minor", MAX, 409, "insufficient_funds", ""),
    ("payout", "/amount/currency", "XXX", 400, "unknown_currency", None),
    ("payout", "/amount/currency", "EUR", 409, "insufficient_funds", ""),
    ("payout", "/amount/currency", None, 400, "", None),
    ("payout", "/currency", "USD", 400, "amount_or_currency", ""),
    ("cancel", "/reason", "", 400, "blank", None),
    ("cancel", "/reason", TOO_LONG, 400, "max_length", None),
    ("export", "/source", ..., 400, "required", None),
    ("export", "/format", "pdf", 400, "invalid_choice", None),
    ("export", "/parameters", [], 400, "not_a_dict", None),
    ("reversal", "/reason", ..., 400, "required", None),
    ("reversal", "/reason", " ", 400, "blank", None),
    ("reversal", "/reason", TOO_LONG, 400, "max_length", None),
    ("reversal", "/parts", [], 400, "min_length", None),
    ("reversal", "/parts", {}, 400, "not_a_list", None),
    ("reversal", "/parts", ..., 409, "insufficient_funds", ""),
    ("reversal", "/parts/0", ..., 422, "unbalanced", "/parts"),
    ("reversal", "/parts/0/account_id", "1", 400, "invalid", None),
    ("reversal", "/parts/0/account_id", True, 400, "invalid", None),
    ("reversal", "/parts/0/account_id", 0, 400, "min_value", None),
    ("reversal", "/parts/0/account_id", MAX, 422, "account_not_in_posting", None),
    ("reversal", "/parts/0/amount/amount_minor", 0, 400, "amount_too_small", None),
    ("reversal", "/parts/0/amount/amount_minor", 4, 422, "unbalanced", "/parts"),
    ("reversal", "/parts/0/amount/amount_minor", MAX, 422, "more_than_posted", None),
    ("reversal", "/parts/0/amount/currency", "EUR", 422, "currency_mismatch", None),
    ("reversal", "/parts/1/side", "debit", 400, "unknown_field", None),
    ("policy", "/mode", "always", 400, "invalid_choice", None),
    ("policy", "/mode", ..., 400, "required", None),
    ("policy", "/cadence", "daily", 400, "invalid_choice", None),
    ("policy", "/day", 0, 400, "min_value", None),
    ("policy", "/day", 8, 422, "", None),
    ("policy", "/day", "1", 400, "invalid", None),
    ("policy", "/day", True, 400, "invalid", None),
    ("policy", "/minimum_minor", -1, 400, "min_value", None),
    ("policy", "/minimum_minor", 2**53, 400, "number_too_large", None),
]


@pytest.mark.parametrize(
    ("name", "place", "value", "status", "code", "pointer"),
    WRONG,
    ids=[f"{name}{place}={str(value)[:20]}" for name, place, value, *_ in WRONG],
)
def test_a_wrong_value_is_named_and_nothing_is_written(
    platform: Api,
    ours: Deal,
    name: str,
    place: str,
    value: Any,
    status: int | tuple[int, ...],
    code: str,
    pointer: str | None,
) -> None:
    before = contents()
    body = altered(STRICT[name][2](ours), place, value)
    refused(send(platform, ours, name, body), status, code, place if pointer is None else pointer or None)
    assert contents() == before


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ("", 428, "precondition_required"),
        ('"3"', 412, "version_conflict"),
        ('"5"', 412, "version_conflict"),
        ("4", 422, "invalid_if_match"),
        ("*", 422, "invalid_if_match"),
        ('"4", "5"', 422, "invalid_if_match"),
        ('"-1"', 422, "invalid_if_match"),
        ('"99999999999999999999"', 422, "invalid_if_match"),
        ('"４"', 422, "invalid_if_match"),
    ],
)
def test_a_change_must_be_based_on_the_current_version(
    platform: Api, ours: Deal, given: str, status: int, code: str
) -> None:
    before = contents()
    answer = platform(*_operation(ours), If_Match=given.encode().decode("latin-1"))
    refused(answer, status, code)
    assert contents() == before
    assert platform(*_operation(ours), If_Match='"4"').status_code == 201
    refused(platform(*_operation(ours), If_Match='"4"'), 412, "version_conflict")


def _operation(deal: Deal) -> tuple[str, str, Any]:
    return "POST", f"contracts/{deal.contract.pk}/operations/", change(deal)


@pytest.mark.parametrize(
    "query",
    [
        "colour=red", "page=2", "page_size=0", "page_size=201", "page_size=1.5", "page_size=x", "cursor=%00",
        "cursor=AAAA", "cursor=" + "x" * 600,
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named_at_every_list(platform: Api, ours: Deal, query: str) -> None:
    lists = (
        "organizations/", "contracts/", "products/", "invoices/", "billing-accounts/", "pay-ins/",
        "ledger/accounts/", "ledger/transactions/", "settlements/", "payouts/", "platform-terms/",
        f"contracts/{ours.contract.pk}/edits/", "offers/", f"organizations/{ours.seller.pk}/references/",
        f"ledger/accounts/{ours.wallet.pk}/statement/",
    )  # fmt: skip
    for path in lists:
        answer = platform("GET", f"{path}?{query}")
        refused(answer, 400, pointer=f"?{query.partition('=')[0]}")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("contracts/{contract}/", "valid_at"),
        ("contracts/{contract}/", "known_at"),
        ("contracts/{contract}/timeline/", "known_at"),
        ("contracts/{contract}/service/", "valid_at"),
        ("contracts/{contract}/service/", "known_at"),
        ("contracts/{contract}/document/", "valid_at"),
        ("contracts/{contract}/document/", "known_at"),
        ("contracts/{contract}/diff/", "from"),
        ("platform-terms/current/", "at"),
        ("ledger/accounts/{wallet}/", "at"),
        ("ledger/accounts/", "at"),
    ],
)
def test_an_instant_in_a_parameter_has_an_offset_and_exists(
    platform: Api, ours: Deal, path: str, name: str
) -> None:
    path = path.format(contract=ours.contract.pk, wallet=ours.wallet.pk)
    for value in ("2027-03-01", "2027-03-01T00:00:00", "now", "", "2027-02-30T00:00:00Z", "%00"):
        refused(platform("GET", f"{path}?{name}={value}"), 400, pointer=f"?{name}")
    for value in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert platform("GET", f"{path}?{name}={value}").status_code in (200, 404)


@pytest.mark.parametrize(
    ("path", "status", "pointer"),
    [
        ("diff/", 400, "?from"),
        ("diff/?from=2027-03-01T00:00:00Z&from_version=1", 400, "?from_version"),
        ("diff/?from_version=0", 400, "?from_version"),
        ("diff/?from_version=x", 400, "?from_version"),
        ("diff/?from_version=1&to_version=99", 404, "?to_version"),
        ("diff/?from_version=99999999999999999999", (400, 404), "?from_version"),
        ("desired-lines/", 400, "?start"),
        ("desired-lines/?start=2027-03-01T00:00:00Z", 400, "?end"),
        ("desired-lines/?start=2027-03-01T00:00:00Z&end=2027-03-01T00:00:00Z", 400, "?end"),
        ("desired-lines/?start=2027-03-01T00:00:00Z&end=2031-03-01T00:00:00Z", 400, "?end"),
        ("desired-lines/?start=9999-12-31T00:00:00Z&end=9999-12-31T23:59:59Z", 400, "?start"),
        ("desired-lines/?start=0001-01-01T00:00:00Z&end=0001-02-01T00:00:00Z", 400, "?start"),
        ("schedule/?at=2027-03-01T00:00:00Z", 400, "?at"),
        ("document/?format=xml", 400, "?format"),
        ("?format=json", 400, "?format"),
    ],
)
def test_a_wrong_parameter_of_a_contracts_address_is_named(
    platform: Api, ours: Deal, path: str, status: int | tuple[int, ...], pointer: str
) -> None:
    refused(platform("GET", f"contracts/{ours.contract.pk}/{path}"), status, pointer=pointer)


def test_a_usage_batch_is_taken_whole_or_not_at_all(platform: Api, ours: Deal) -> None:
    good, bad = usage(ours)["events"][0], usage(ours, id="e-2")["events"][0]
    bad["data"] = {"line_id": str(uuid4()), "quantity": "1"}
    before = contents()
    body = {"contract_id": str(ours.contract.pk), "events": [good, bad]}
    refused(platform("POST", "usage-events/", body), 422, pointer="/events/1/data/line_id")
    assert contents() == before
    assert platform("POST", "usage-events/", usage(ours)).json()["accepted"] == 1
    before = contents()
    assert platform("POST", "usage-events/", usage(ours)).json() == {
        "accepted": 0, "duplicates": 1, "batch_id": None,
    }  # fmt: skip
    other = usage(ours, data={"line_id": ours.burst, "quantity": "9"})
    refused(platform("POST", "usage-events/", other), (409, 422))
    assert contents() == before


def test_a_thousand_events_at_a_time(platform: Api, ours: Deal) -> None:
    event = usage(ours)["events"][0]
    events = [
        {**event, "id": f"e-{n}", "data": {"line_id": ours.burst, "quantity": "1"}} for n in range(1001)
    ]
    before = contents()
    body = {"contract_id": str(ours.contract.pk), "events": events}
    refused(platform("POST", "usage-events/", body), 400, "max_length", "/events")
    assert contents() == before
    body["events"] = events[:1000]
    assert platform("POST", "usage-events/", body).json()["accepted"] == 1000


def test_an_exact_quantity_is_kept_to_the_last_digit(platform: Api, ours: Deal) -> None:
    from billing.models import UsageEvent

    body = usage(ours, data={"line_id": ours.burst, "quantity": "0.123456789"})
    assert platform("POST", "usage-events/", body).status_code == 202
    assert UsageEvent.objects.get().quantity == Decimal("0.123456789")

"""An organization's key sees its own and nothing else, at every address of the API."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from commerce.parties.models import Organization
from tests.api.conftest import Api, Deal, contents, contract_payload

REASON = {"reason": "test"}
OPERATION = {"operation": "suspend", "payload": {"reason": "legal"}}
BATCH = {"operations": [OPERATION]}
MARCH = "start=2027-03-01T00:00:00Z&end=2027-04-01T00:00:00Z"

# Every address with an id: whose it is, and what would be sent there.
Place = tuple[str, str, Callable[[Deal], str], Any]
PLACES: list[Place] = [
    ("GET", "organizations/{}/", lambda d: str(d.buyer.pk), None),
    ("GET", "organizations/{}/references/", lambda d: str(d.seller.pk), None),
    (
        "POST",
        "organizations/{}/bank-accounts/",
        lambda d: str(d.seller.pk),
        {"account_number": "987654321098", "routing_number": "121141822"},
    ),
    ("GET", "contracts/{}/", lambda d: str(d.contract.pk), None),
    ("GET", "contracts/{}/edits/", lambda d: str(d.contract.pk), None),
    ("GET", "contracts/{}/timeline/", lambda d: str(d.contract.pk), None),
    ("GET", "contracts/{}/service/", lambda d: str(d.contract.pk), None),
    ("GET", "contracts/{}/schedule/", lambda d: str(d.contract.pk), None),
    ("GET", "contracts/{}/document/", lambda d: str(d.contract.pk), None),
    ("GET", "contracts/{}/diff/", lambda d: str(d.contract.pk), None),
    ("GET", "contracts/{}/desired-lines/", lambda d: str(d.contract.pk), None),
    ("POST", "contracts/{}/operations/", lambda d: str(d.contract.pk), OPERATION),
    ("POST", "contracts/{}/preview/", lambda d: str(d.contract.pk), OPERATION),
    ("POST", "contracts/{}/batches/", lambda d: str(d.contract.pk), BATCH),
    ("POST", "contracts/{}/batches/preview/", lambda d: str(d.contract.pk), BATCH),
    ("POST", "contracts/{}/approvals/", lambda d: str(d.contract.pk), BATCH | REASON),
    ("GET", "offers/{}/", lambda d: str(d.offer.pk), None),
    ("POST", "offers/{}/publish/", lambda d: str(d.offer.pk), None),
    ("POST", "offers/{}/withdraw/", lambda d: str(d.offer.pk), REASON),
    ("POST", "offers/{}/revisions/", lambda d: str(d.offer.pk), {"terms": "As agreed."}),
    ("POST", "offers/{}/capacity/", lambda d: str(d.offer.pk), {"capacity": 11}),
    ("GET", "invoices/{}/", lambda d: str(d.invoice.pk), None),
    ("POST", "invoices/{}/accept/", lambda d: str(d.invoice.pk), REASON),
    ("GET", "billing-accounts/{}/", lambda d: str(d.account.pk), None),
    ("GET", "pay-ins/{}/", lambda d: str(d.pay_in.pk), None),
    ("GET", "ledger/accounts/{}/", lambda d: str(d.wallet.pk), None),
    ("GET", "ledger/accounts/{}/statement/", lambda d: str(d.wallet.pk), None),
    ("GET", "ledger/transactions/{}/", lambda d: str(d.funding.pk), None),
    ("POST", "ledger/transactions/{}/reversal-requests/", lambda d: str(d.collection.pk), REASON),
    ("GET", "wallets/{}/", lambda d: str(d.buyer.pk), None),
    ("GET", "settlements/{}/", lambda d: str(d.settlement.pk), None),
    ("GET", "settlements/{}/legs/", lambda d: str(d.settlement.pk), None),
    ("POST", "settlements/{}/legs/{}/poll/", lambda d: f"{d.settlement.pk} {d.leg.pk}", None),
    ("GET", "payouts/{}/", lambda d: str(d.payout.pk), None),
    ("POST", "payouts/{}/approve/", lambda d: str(d.payout.pk), REASON),
    ("POST", "payouts/{}/reject/", lambda d: str(d.payout.pk), REASON),
    ("POST", "payouts/{}/cancel/", lambda d: str(d.payout.pk), REASON),
    ("POST", "payouts/{}/poll/", lambda d: str(d.payout.pk), None),
    ("POST", "payouts/{}/giving-up-requests/", lambda d: str(d.payout.pk), REASON),
    ("GET", "exports/{}/", lambda d: str(d.export.pk), None),
    ("GET", "payout-policies/{}/", lambda d: str(d.seller.pk), None),
    ("GET", "approvals/{}/", lambda d: str(d.approval.pk), None),
    ("GET", "webhook-endpoints/{}/", lambda d: str(d.webhook.endpoint_id), None),
    ("PATCH", "webhook-endpoints/{}/", lambda d: str(d.webhook.endpoint_id), {"description": "mine"}),
    ("DELETE", "webhook-endpoints/{}/", lambda d: str(d.webhook.endpoint_id), None),
    ("POST", "webhook-endpoints/{}/rotate-secret/", lambda d: str(d.webhook.endpoint_id), None),
    ("POST", "webhook-endpoints/{}/disable/", lambda d: str(d.webhook.endpoint_id), None),
    ("POST", "webhook-endpoints/{}/enable/", lambda d: str(d.webhook.endpoint_id), None),
    ("POST", "webhook-endpoints/{}/test/", lambda d: str(d.webhook.endpoint_id), None),
    (
        "POST",
        "webhook-endpoints/{}/resend/",
        lambda d: str(d.webhook.endpoint_id),
        {"since": "2027-01-01T00:00:00Z"},
    ),
    ("GET", "webhook-endpoints/{}/messages/", lambda d: str(d.webhook.endpoint_id), None),
    ("GET", "webhook-messages/{}/", lambda d: str(d.webhook.pk), None),
    ("GET", "webhook-messages/{}/attempts/", lambda d: str(d.webhook.pk), None),
    ("POST", "webhook-messages/{}/resend/", lambda d: str(d.webhook.pk), None),
    ("GET", "platform-terms/{}/", lambda d: "1", None),
    ("PUT", "payout-policies/{}/", lambda d: str(d.seller.pk), {"mode": "on_request"}),
]
LISTS: list[tuple[str, Callable[[Deal], tuple[set[str], set[str]]]]] = [
    ("organizations/", lambda d: ({str(d.buyer.pk)}, {str(d.seller.pk)})),
    ("contracts/", lambda d: ({str(d.contract.pk)}, {str(d.contract.pk)})),
    ("offers/", lambda d: (set(), {str(d.offer.pk)})),
    ("invoices/", lambda d: ({str(d.invoice.pk)}, set())),
    ("billing-accounts/", lambda d: ({str(d.account.pk)}, set())),
    ("pay-ins/", lambda d: ({str(d.pay_in.pk)}, set())),
    ("settlements/", lambda d: (set(), {str(d.settlement.pk)})),
    ("payouts/", lambda d: (set(), {str(d.payout.pk)})),
    ("exports/", lambda d: ({str(d.export.pk)}, set())),
    ("webhook-endpoints/", lambda d: ({str(d.webhook.endpoint_id)}, set())),
]
# What a parameter of an address must say.
QUERIES = {"contracts/{}/diff/": "?from_version=1", "contracts/{}/desired-lines/": f"?{MARCH}"}
# Of the platform's keys alone.
OURS = {
    *("GET approvals/", "GET ledger/periods/", "GET ledger/seals/"),
    *("GET platform-terms/", "GET platform-terms/current/"),
}
SHARED = {"GET products/", "GET products/{}/", "GET webhook-event-types/"}
# An export's file is not there until a worker has made it.
FILES = {"GET exports/{}/file/"}
WITHOUT_AN_ID = {
    "POST organizations/",
    "POST contracts/",
    "POST offers/",
    "POST offers/imports/",
    "POST service-events/",
    "POST usage-events/",
    "POST payouts/",
    "POST exports/",
    "POST webhook-endpoints/",
}
# Refused before the object is looked for: the key may not do this at all.
FORBIDDEN = {
    "invoices/{}/accept/",
    "ledger/transactions/{}/reversal-requests/",
    "payouts/{}/approve/",
    "payouts/{}/reject/",
    "payouts/{}/giving-up-requests/",
    "approvals/{}/",
}


def routes() -> set[str]:
    """Every "METHOD path/{}/" below /api/v1/."""
    found = set()

    def walk(patterns: list[Any], prefix: str) -> None:
        for pattern in patterns:
            path = prefix + str(pattern.pattern).replace("^", "").removesuffix("$")
            if isinstance(pattern, URLResolver):
                walk(pattern.url_patterns, path)
            elif isinstance(pattern, URLPattern) and path.startswith("api/v1/"):
                for method in (getattr(pattern.callback, "actions", None) or {}).keys() - {"head"}:
                    found.add(f"{method.upper()} {re.sub(r'[(][?]P<.*?>.*?[)]', '{}', path)}")

    walk(get_resolver().url_patterns, "")
    return {route.replace(" api/v1/", " ") for route in found}


def fill(path: str, ids: str) -> str:
    return path.format(*ids.split()) + QUERIES.get(path, "")


def ids_in(answer: Any) -> set[str]:
    assert answer.status_code == 200, answer.content
    return {item.get("id", "") for item in answer.json()["items"]}


def test_every_address_of_the_api_is_in_the_tables_here() -> None:
    here = {f"{method} {path}" for method, path, _, _ in PLACES}
    own = {f"GET ledger/{name}/" for name in ("accounts", "transactions", "trial-balance")}
    lists = {f"GET {path}" for path, _ in LISTS} | own
    assert routes() == here | lists | OURS | SHARED | FILES | WITHOUT_AN_ID


@pytest.mark.parametrize(
    ("method", "path", "of", "body"), PLACES, ids=[f"{method} {path}" for method, path, _, _ in PLACES]
)
def test_what_is_somebody_elses_is_not_there(
    ours: Deal, theirs: Deal, method: str, path: str, of: Callable[[Deal], str], body: Any
) -> None:
    strangers = [Api(ours.buyer), Api(ours.seller), Api(ours.partner)]
    before = contents()
    unknown = " ".join(str(uuid4()) for _ in range(path.count("{}")))
    for api in strangers:
        foreign = api(method, fill(path, of(theirs)), body, If_Match='"4"')
        missing = api(method, fill(path, unknown), body, If_Match='"4"')
        expected = 403 if path in FORBIDDEN else 404
        assert (foreign.status_code, missing.status_code) == (expected, expected)
        assert foreign["Content-Type"] == "application/problem+json"
        secret = {"request_id", "detail"} if expected == 403 else {"request_id"}
        shown = [{k: v for k, v in a.json().items() if k not in secret} for a in (foreign, missing)]
        assert shown[0] == shown[1], "an answer must not tell a foreign id from an unknown one"
    for odd in ("0", "not-an-id", "%00", "%F0%28%8C", "..%2F", "1" * 300, "-1", str(2**63), str(2**64)):
        answer = strangers[1](method, fill(path, " ".join([odd] * path.count("{}"))), body, If_Match='"4"')
        assert answer.status_code in (403, 404), (odd, answer.content)
        assert answer["Content-Type"] == "application/problem+json"
    assert contents() == before


@pytest.mark.parametrize(("path", "of"), LISTS, ids=[path for path, _ in LISTS])
def test_a_list_has_only_ones_own(ours: Deal, theirs: Deal, platform: Api, path: str, of: Any) -> None:
    for deal in (ours, theirs):
        buyers, sellers = of(deal)
        assert ids_in(Api(deal.buyer)("GET", path)) == buyers
        assert ids_in(Api(deal.seller)("GET", path)) == sellers
    everything = ids_in(platform("GET", path))
    for deal in (ours, theirs):
        assert set().union(*of(deal)) <= everything
    assert ids_in(Api(Organization.objects.create(name="New", slug="new", roles=["buyer"]))("GET", path)) <= {
        str(Organization.objects.get(slug="new").pk)
    }


@pytest.mark.parametrize(
    ("path", "name", "of"),
    [
        ("invoices/", "contract_id", lambda d: d.contract.pk),
        ("billing-accounts/", "contract_id", lambda d: d.contract.pk),
        ("settlements/", "contract_id", lambda d: d.contract.pk),
        ("settlements/", "invoice_id", lambda d: d.invoice.pk),
        ("payouts/", "payee_id", lambda d: d.seller.pk),
        ("ledger/accounts/", "owner_id", lambda d: d.buyer.pk),
        ("ledger/transactions/", "owner_id", lambda d: d.buyer.pk),
        ("contracts/", "number", lambda d: d.contract.number),
        ("ledger/transactions/", "key", lambda d: d.funding.key),
    ],
)
def test_a_filter_does_not_open_the_door(
    ours: Deal, theirs: Deal, platform: Api, path: str, name: str, of: Any
) -> None:
    for api in (Api(ours.buyer), Api(ours.seller)):
        assert api("GET", f"{path}?{name}={of(theirs)}").json()["items"] == []
    assert platform("GET", f"{path}?{name}={of(theirs)}").json()["items"] != []


def test_the_ledger_shows_own_accounts_and_of_shared_transactions_only_own_legs(
    ours: Deal, theirs: Deal
) -> None:
    for deal, other in ((ours, theirs), (theirs, ours)):
        for owner in (deal.buyer, deal.seller, deal.partner):
            api = Api(owner)
            accounts = api("GET", "ledger/accounts/").json()["items"]
            assert {account["owner_id"] for account in accounts} == {str(owner.pk)}
            transactions = api("GET", "ledger/transactions/").json()["items"]
            assert transactions
            legs = [leg for transaction in transactions for leg in transaction["entries"]]
            assert {leg["owner_id"] for leg in legs} == {str(owner.pk)}
            assert all(transaction["entries"] for transaction in transactions)
            text = api("GET", "ledger/transactions/").content.decode()
            assert str(other.buyer.pk) not in text
            assert str(Organization.objects.platform().pk) not in text


def test_no_answer_names_a_stranger(ours: Deal, theirs: Deal) -> None:
    """Everything that a party may read, read: nothing in it belongs to the other deal."""
    foreign = [
        str(row.pk)
        for row in (
            theirs.buyer,
            theirs.seller,
            theirs.partner,
            theirs.contract,
            theirs.invoice,
            theirs.payout,
        )
    ]
    foreign += [theirs.contract.number, theirs.buyer.name, theirs.seller.name]
    for api in (Api(ours.buyer), Api(ours.seller), Api(ours.partner)):
        for path in (*(path for path, _ in LISTS), "ledger/accounts/", "ledger/transactions/"):
            text = api("GET", path).content.decode()
            assert not [secret for secret in foreign if secret in text], path
        for method, path, of, _ in PLACES:
            if method == "GET":
                text = api("GET", fill(path, of(ours))).content.decode()
                assert not [secret for secret in foreign if secret in text], path


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        (
            "usage-events/",
            lambda d: {
                "contract_id": str(d.contract.pk),
                "events": [
                    {
                        "specversion": "1.0",
                        "id": "e-1",
                        "source": "meter",
                        "time": "2027-03-02T00:00:00Z",
                        "data": {"line_id": d.burst, "quantity": "1"},
                    }
                ],
            },
            "/contract_id",
        ),
        ("payouts/", lambda d: {"payee_id": str(d.seller.pk), "currency": "USD"}, "/payee_id"),
        ("contracts/", lambda d: contract_payload(d.buyer, d.seller, d.partner), ""),
        (
            "organizations/",
            lambda d: {"name": "Mine", "roles": ["buyer"], "country": "US", "currency": "USD"},
            "",
        ),
    ],
)
def test_what_names_somebody_else_in_its_body_is_refused(
    ours: Deal, theirs: Deal, path: str, body: Any, pointer: str
) -> None:
    before = contents()
    for api in (Api(ours.buyer), Api(ours.seller)):
        answer = api("POST", path, body(theirs))
        assert answer.status_code in (403, 404, 422), answer.content
        if pointer:
            assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert contents() == before


def test_a_key_without_the_scope_is_refused_everywhere(ours: Deal) -> None:
    before = contents()
    readers = {"usage:write": Api(ours.buyer, "usage:read")}
    nothing = readers["usage:write"]
    for method, path, of, body in PLACES:
        answer = nothing(method, fill(path, of(ours)), body, If_Match='"4"')
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), path
    for path, _ in LISTS:
        assert nothing("GET", path).status_code == 403
    for route in WITHOUT_AN_ID:
        assert nothing("POST", route.removeprefix("POST "), {}).status_code == 403
    reader = Api(ours.seller, *(f"{name}:read" for name in ("contracts", "payouts", "settlements", "usage")))
    for method, path, of, body in PLACES:
        if method != "GET":
            assert reader(method, fill(path, of(ours)), body, If_Match='"4"').status_code == 403, path
    assert contents() == before


def test_without_a_key_there_is_nothing(ours: Deal) -> None:
    before = contents()
    api = Api(ours.buyer)
    for method, path, of, body in PLACES:
        for header in ("", "Bearer ", "Bearer ck_test_x_y", "Basic YTpi", "Bearer ck_test_\x00_y"):
            answer = api(method, fill(path, of(ours)), body, Authorization=header)
            assert answer.status_code == 401, (path, header)
            assert answer["WWW-Authenticate"].startswith("Bearer")
    assert contents() == before

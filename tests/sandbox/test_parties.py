"""Modern Treasury's parties and accounts: shapes, validation, pages, and no account number in any answer."""

import pytest

from tests.sandbox.conftest import INTERNAL_ACCOUNT

NUMBER = "987654321000"


def account(**more):
    routing = {"routing_number_type": "aba", "routing_number": "121141822"}
    details = {"account_details": [{"account_number": NUMBER}], "routing_details": [routing]}
    return {"account_type": "checking", "party_type": "business", **details, **more}


def test_a_counterparty_with_inline_accounts(sandbox):
    body = {"name": "Northwind", "external_id": "seller_1", "metadata": {"a": "1"}, "accounts": [account()]}
    created = sandbox.mt.post("/counterparties", json=body)
    assert created.status_code == 201
    [inline] = created.json()["accounts"]
    assert inline["account_details"][0]["account_number_safe"] == "1000"
    assert inline["routing_details"][0]["bank_name"] == "GRINGOTTS BANK"
    assert created.json() == sandbox.mt.get(f"/counterparties/{created.json()['id']}").json()
    found = sandbox.mt.get("/counterparties", params={"external_id": "seller_1", "metadata[a]": "1"}).json()
    assert [row["id"] for row in found] == [created.json()["id"]]
    assert sandbox.mt.get("/counterparties", params={"metadata[a]": "2"}).json() == []


def test_full_account_numbers_never_come_back(sandbox):
    party = sandbox.mt.post("/counterparties", json={"name": "Northwind"}).json()
    body = account(counterparty_id=party["id"])
    answers = [sandbox.mt.post("/external_accounts", json=body)]
    identity = answers[0].json()["id"]
    details = f"/external_accounts/{identity}/account_details"
    answers += [
        sandbox.mt.post(details, json={"account_number": NUMBER}),
        sandbox.mt.get(details),
        sandbox.mt.get(f"/external_accounts/{identity}"),
        sandbox.mt.get("/external_accounts"),
        sandbox.mt.get(f"/counterparties/{party['id']}"),
        sandbox.mt.get("/events"),
        sandbox.control.get("/effects"),
    ]
    for answer in answers:
        assert answer.status_code < 300, answer.text
        assert NUMBER not in answer.text
        assert '"_' not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "parameter", "code"),
    [
        ("/counterparties", {}, "name", "parameter_missing"),
        ("/counterparties", {"name": 7}, "name", "parameter_invalid"),
        ("/counterparties", {"name": "N", "metadata": {"n": 1}}, "metadata", "parameter_invalid"),
        (
            "/counterparties",
            {"name": "N", "accounts": [account(party_type="club")]},
            "party_type",
            "parameter_invalid",
        ),
        ("/external_accounts", account(), "counterparty_id", "parameter_missing"),
        ("/external_accounts", account(counterparty_id="none"), "counterparty_id", "parameter_invalid"),
        ("/virtual_accounts", {"name": "V"}, "internal_account_id", "parameter_missing"),
        (
            "/virtual_accounts",
            {"name": "V", "internal_account_id": "x"},
            "internal_account_id",
            "parameter_invalid",
        ),
    ],
)
def test_a_refused_body_names_the_parameter_and_creates_nothing(sandbox, path, body, parameter, code):
    answer = sandbox.mt.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"]["parameter"] == parameter
    assert answer.json()["errors"]["code"] == code
    assert answer.json()["errors"]["message"]
    effects = sandbox.effects()["modern_treasury"]
    assert not any(effects[kind] for kind in ("counterparty", "external_account", "virtual_account"))


def test_a_routing_number_is_checked(sandbox):
    routing = [{"routing_number_type": "aba", "routing_number": "121141823"}]
    body = {"name": "N", "accounts": [account(routing_details=routing)]}
    assert sandbox.mt.post("/counterparties", json=body).json()["errors"]["parameter"] == "routing_number"


def test_a_virtual_account_hangs_on_the_seeded_internal_account(sandbox):
    body = {"name": "Acme", "internal_account_id": INTERNAL_ACCOUNT, "metadata": {"reference": "wallet_1"}}
    created = sandbox.mt.post("/virtual_accounts", json=body)
    assert created.status_code == 201
    assert len(created.json()["account_details"][0]["account_number_safe"]) == 4
    assert sandbox.mt.get(f"/internal_accounts/{INTERNAL_ACCOUNT}").json()["currency"] == "USD"
    found = sandbox.mt.get("/virtual_accounts", params={"metadata[reference]": "wallet_1"}).json()
    assert [row["id"] for row in found] == [created.json()["id"]]
    assert sandbox.effects()["counts"]["modern_treasury.virtual_account"] == {"wallet_1": 1}


def test_what_is_discarded_is_not_found(sandbox):
    party = sandbox.mt.post("/counterparties", json={"name": "Northwind"}).json()["id"]
    assert sandbox.mt.delete(f"/counterparties/{party}").status_code == 204
    assert sandbox.mt.get(f"/counterparties/{party}").status_code == 404
    assert sandbox.mt.get("/counterparties").json() == []


def test_unknown_things_are_404_with_modern_treasurys_error(sandbox):
    for path in ("/counterparties/none", "/payment_orders/none", "/nothing", "/events/none"):
        answer = sandbox.mt.get(path)
        assert answer.status_code == 404
        assert answer.json()["errors"]["code"] == "resource_not_found"
    assert sandbox.mt.put("/counterparties", json={}).status_code == 405


def test_authentication(sandbox):
    for auth in (("org", "wrong"), ("", ""), ("other", "key")):
        answer = sandbox.mt.get("/counterparties", auth=auth)
        assert (answer.status_code, answer.json()["errors"]["code"]) == (401, "invalid_key")


def test_pages_are_cut_by_cursor_newest_first(sandbox):
    ids = [sandbox.mt.post("/counterparties", json={"name": f"P{n}"}).json()["id"] for n in range(5)]
    seen, cursor = [], None
    while True:
        answer = sandbox.mt.get("/counterparties", params={"per_page": 2, "after_cursor": cursor or ""})
        seen.append([row["id"] for row in answer.json()])
        assert answer.headers["x-per-page"] == "2"
        if (cursor := answer.headers.get("x-after-cursor")) is None:
            break
    assert seen == [ids[:-3:-1], ids[-3:-5:-1], ids[:1]]
    for wrong in ("0", "101", "many"):
        assert sandbox.mt.get("/counterparties", params={"per_page": wrong}).status_code == 422

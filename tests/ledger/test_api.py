"""The ledger's doors for integrations: balances, statements and wallets, each organization its own."""

from datetime import timedelta
from uuid import uuid4

import pytest

from commerce.api.services import issue_key
from commerce.parties.models import Organization
from ledger.models import LedgerAccount
from ledger.rules import recipes
from ledger.services import anchor, begin_closing, keep, post_pending
from tests.commerce.api.conftest import Api
from tests.ledger.conftest import ACTOR, AT, usd

ACCOUNTS, TRANSACTIONS = "/api/v1/ledger/accounts/", "/api/v1/ledger/transactions/"


@pytest.fixture
def story(people, posted):
    p = people
    posted("fund_wallet", recipes.fund_wallet(platform=p.platform, buyer=p.acme, amount=usd("150")), "fund")
    later = AT + timedelta(days=1)
    posted(
        "commit", recipes.commit(buyer=p.acme, downpayment=usd("10"), expected=usd("28.97")), "commit", later
    )
    posted(
        "return_payout", recipes.return_payout(platform=p.platform, payee=p.northwind, amount=usd("5")), "r"
    )
    return p


@pytest.fixture
def api():
    def api(owner, *scopes):
        organization = Organization.objects.get(pk=owner)
        scopes = scopes or ("ledger:read", "wallets:read")
        return Api(issue_key(organization=organization, scopes=scopes, label="key", actor=ACTOR, at=AT)[1])

    return api


def items(response):
    assert response.status_code == 200, response.content
    return response.json()["items"]


def money(minor, currency="USD"):
    return {"amount_minor": minor, "currency": currency}


def test_an_organization_sees_the_balances_of_its_own_accounts(story, api):
    seen = {row["kind"]: row["posted"] for row in items(api(story.acme).get(ACCOUNTS))}
    assert seen == {"AVAILABLE": money(11103), "COMMITTED": money(2897), "COMMITTED_DOWNPAYMENT": money(1000)}
    everything = items(api(story.platform).get(ACCOUNTS))
    assert {row["owner_id"] for row in everything} == {
        str(owner) for owner in (story.acme, story.platform, story.northwind)
    }


def test_accounts_can_be_chosen_and_read_as_of_an_instant(story, api):
    platform = api(story.platform)
    (row,) = items(
        platform.get(f"{ACCOUNTS}?owner_id={story.acme}&kind=AVAILABLE&currency=USD&at=2027-03-01T23:59:59Z")
    )
    assert (row["posted"], row["normal_side"], row["account_class"]) == (money(15000), "credit", "liability")
    now = platform.get(f"{ACCOUNTS}{row['id']}/").json()
    assert now["posted"] == money(11103)
    then = platform.get(f"{ACCOUNTS}{row['id']}/?at=2027-03-01T00:00:00Z").json()
    assert then["posted"] == money(15000)


def test_holds_show_in_pending_and_available(story, api):
    post_pending(
        entries=recipes.commit(buyer=story.acme, downpayment=usd("0"), expected=usd("11.03")),
        key="p",
        source="s",
        recipe="commit",
        at=AT,
        actor=ACTOR,
    )
    (row,) = items(api(story.acme).get(f"{ACCOUNTS}?kind=AVAILABLE"))
    assert [row[name]["amount_minor"] for name in ("posted", "pending", "available")] == [11103, 10000, 10000]
    (pending,) = items(api(story.acme).get(f"{TRANSACTIONS}?key=p"))
    assert pending["status"] == "pending"
    assert [(leg["kind"], leg["side"]) for leg in pending["entries"]] == [
        ("AVAILABLE", "debit"),
        ("COMMITTED", "credit"),
    ]


@pytest.mark.parametrize("query", ["?at=2027-03-01T00:00:00", "?kind=POCKET", "?owner_id=7", "?colour=red"])
def test_parameters_that_make_no_sense_are_named(story, api, query):
    response = api(story.platform).get(ACCOUNTS + query)
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == "?" + query[1:].partition("=")[0]


def test_a_statement_pages_through_the_running_balance(story, api):
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    client = api(story.acme)
    first = client.get(f"{ACCOUNTS}{account.pk}/statement/?page_size=1").json()
    assert [(line["amount"], line["balance"], line["recipe"]) for line in first["items"]] == [
        (money(-3897), money(11103), "commit")
    ]
    assert first["items"][0]["explanation"].startswith("Part of the wallet")
    second = client.get(first["next"]).json()
    assert [(line["amount"], line["balance"]) for line in second["items"]] == [(money(15000), money(15000))]
    assert second["next"] is None


def test_a_transaction_shows_an_organization_only_its_own_legs(story, api):
    mine = items(api(story.acme).get(TRANSACTIONS))
    assert [row["key"] for row in mine] == ["commit", "fund"]
    fund = mine[1]
    assert [(leg["kind"], leg["amount"]) for leg in fund["entries"]] == [("AVAILABLE", money(15000))]
    whole = api(story.platform).get(f"{TRANSACTIONS}{fund['id']}/").json()
    assert {leg["kind"] for leg in whole["entries"]} == {"AVAILABLE", "CASH_BANK"}
    assert whole["effective_at"] == "2027-03-01T00:00:00Z"


def test_other_peoples_rows_are_not_there(story, api):
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    fund = items(api(story.platform).get(f"{TRANSACTIONS}?key=fund"))[0]
    stranger = api(story.northwind)
    for path in (
        f"{ACCOUNTS}{account.pk}/",
        f"{ACCOUNTS}{account.pk}/statement/",
        f"{TRANSACTIONS}{fund['id']}/",
        f"/api/v1/wallets/{story.acme}/",
    ):
        assert stranger.get(path).status_code == 404, path
    assert items(stranger.get(f"{ACCOUNTS}?owner_id={story.acme}")) == []
    assert items(stranger.get(f"{TRANSACTIONS}?key=fund")) == []


def test_a_wallet_says_what_is_free_and_what_is_set_aside(story, api):
    body = api(story.acme).get(f"/api/v1/wallets/{story.acme}/").json()
    assert body == {
        "organization_id": str(story.acme),
        "wallets": [
            {
                "currency": "USD",
                "available": money(11103),
                "committed": money(2897),
                "committed_downpayment": money(1000),
            }
        ],
    }
    empty = api(story.platform).get(f"/api/v1/wallets/{story.bridge}/").json()
    assert empty["wallets"][0]["available"] == money(0)
    for nobody in (uuid4(), "acme"):
        assert api(story.platform).get(f"/api/v1/wallets/{nobody}/").status_code == 404


def test_each_door_asks_for_its_scope_and_nothing_can_be_written(story, api):
    wallets_only = api(story.acme, "wallets:read")
    assert wallets_only.get(ACCOUNTS).status_code == 403
    assert api(story.acme, "ledger:read").get(f"/api/v1/wallets/{story.acme}/").status_code == 403
    assert api(story.acme, "ledger:write", "ledger:read").post(ACCOUNTS, {}).status_code == 405


def test_a_page_costs_the_same_queries_whatever_it_holds(story, api, django_assert_max_num_queries):
    client = api(story.platform)
    for path in (ACCOUNTS, TRANSACTIONS):
        with django_assert_max_num_queries(5):
            items(client.get(path))


def test_the_platform_reads_the_chain_of_seals_and_nobody_else_does(story, api):
    assert keep(margin=timedelta(0), limit=1) == 3
    seals = items(api(story.platform).get("/api/v1/ledger/seals/"))
    assert [row["number"] for row in seals] == [3, 2, 1]
    assert [row["previous"] for row in seals] == [seals[1]["hash"], seals[2]["hash"], ""]
    assert "members" not in seals[0]
    assert seals[0]["hash"] == anchor()["hash"]
    assert items(api(story.acme).get("/api/v1/ledger/seals/")) == []
    assert api(story.platform, "wallets:read").get("/api/v1/ledger/seals/").status_code == 403


def test_the_trial_balance_over_http_is_whole_for_the_platform_and_own_for_others(story, api):
    whole = api(story.platform).get("/api/v1/ledger/trial-balance/?by=class").json()
    assert [row["name"] for row in whole["rows"]] == ["Asset", "Liability"]
    (total,) = whole["totals"]
    assert total["debit"] == total["credit"] == money(155_00)
    own = api(story.northwind).get("/api/v1/ledger/trial-balance/").json()
    assert [row["key"] for row in own["rows"]] == ["PAYABLE"]
    before = api(story.platform).get("/api/v1/ledger/trial-balance/?at=2027-02-01T00:00:00Z").json()
    assert before == {"rows": [], "totals": []}
    assert api(story.platform).get("/api/v1/ledger/trial-balance/?by=colour").status_code == 400
    assert api(story.platform, "wallets:read").get("/api/v1/ledger/trial-balance/").status_code == 403


def test_periods_over_http_are_the_platforms(story, api):
    begin_closing(month=AT.date(), actor=ACTOR, at=AT + timedelta(days=40))
    (period,) = api(story.platform).get("/api/v1/ledger/periods/").json()["items"]
    assert (period["starts_on"], period["ends_on"], period["status"]) == (
        "2027-03-01",
        "2027-04-01",
        "closing",
    )
    assert api(story.acme).get("/api/v1/ledger/periods/").json()["items"] == []

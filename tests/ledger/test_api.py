"""The ledger's doors for integrations: balances, statements and wallets, each organization its own."""

from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import pytest

from commerce.api.services import issue_key
from commerce.money import Money
from commerce.parties.models import Organization
from ledger.models import LedgerAccount, LedgerPeriod, LedgerTransaction
from ledger.rules import recipes
from ledger.services import anchor, begin_closing, keep, post_pending, reverse
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


def walk(client, url):
    """Every line of a statement, page after page, with what a page does to the one after it."""
    while url:
        page = client.get(url).json()
        yield from page["items"]
        url = page["next"]


def test_a_line_of_a_statement_never_comes_twice_nor_is_left_out_whatever_is_posted_meanwhile(
    story, api, posted
):
    account, client = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE"), api(story.acme)
    entries = recipes.fund_wallet(platform=story.platform, buyer=story.acme, amount=usd("1"))
    for number in range(12):
        posted("fund_wallet", entries, f"at once:{number}")
    before = set(account.entries.values_list("transaction_id", flat=True))
    lines = walk(client, f"{ACCOUNTS}{account.pk}/statement/?page_size=3")
    seen = [next(lines) for _ in range(5)]
    posted("fund_wallet", entries, "meanwhile")
    seen += list(lines)
    ids = [line["transaction_id"] for line in seen]
    assert len(ids) == len(set(ids))
    assert set(ids) == {str(pk) for pk in before}
    for newer, older in pairwise(seen):
        assert older["balance"]["amount_minor"] == (
            newer["balance"]["amount_minor"] - newer["amount"]["amount_minor"]
        )


def test_the_next_page_of_a_statement_reads_no_more_than_the_first(
    story, api, posted, django_assert_num_queries
):
    account, client = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE"), api(story.acme)
    entries = recipes.fund_wallet(platform=story.platform, buyer=story.acme, amount=usd("1"))
    for number in range(4):
        posted("fund_wallet", entries, f"at once:{number}")
    url = client.get(f"{ACCOUNTS}{account.pk}/statement/?page_size=1").json()["next"]
    with django_assert_num_queries(4) as asked:
        url = client.get(url).json()["next"]
    assert "OFFSET" not in str(asked.captured_queries)
    assert url


def test_a_statement_of_a_period_leads_from_its_opening_to_its_closing(story, api, posted):
    entries = recipes.fund_wallet(platform=story.platform, buyer=story.acme, amount=usd("2"))
    then = posted("fund_wallet", entries, "late", AT + timedelta(days=3)).recorded_at
    posted("fund_wallet", entries, "back-dated", AT + timedelta(days=1, hours=1))
    account, client = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE"), api(story.acme)
    url = f"{ACCOUNTS}{account.pk}/statement/"
    period = "since=2027-03-02T00:00:00Z&until=2027-03-04T00:00:00Z"
    page = client.get(f"{url}?{period}").json()
    assert [line["amount"] for line in page["items"]] == [money(200), money(-3897)]
    assert (page["opening"], page["closing"], page["next"]) == (money(15000), money(11303), None)
    assert page["begins_at"] is None
    known = f"known_at={then.isoformat().replace('+00:00', 'Z')}"
    before = client.get(f"{url}?{period}&{known}").json()
    assert [line["amount"] for line in before["items"]] == [money(-3897)]
    assert before["closing"] == money(11103)
    first = client.get(f"{url}?{period}&page_size=1").json()
    assert (first["opening"], first["closing"]) == (page["opening"], page["closing"])
    assert [*walk(client, f"{url}?{period}&page_size=1")] == page["items"]
    whole = client.get(url).json()
    assert (len(whole["items"]), whole["opening"], whole["closing"]) == (4, money(0), money(11503))


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("since=2027-03-01T00:00:00", "since"),
        ("since=2027-03-02T00:00:00Z&until=2027-03-02T00:00:00Z", "until"),
        ("known_at=yesterday", "known_at"),
        ("cursor=cD0yMDI3", "cursor"),
        ("cursor=2027-03-01T00:00:00~2027-03-01T00:00:00~0", "cursor"),
        ("page_size=0", "page_size"),
        ("at=2027-03-02T00:00:00Z", "at"),
    ],
)
def test_a_statement_names_the_parameter_that_makes_no_sense(story, api, query, name):
    account = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE")
    response = api(story.acme).get(f"{ACCOUNTS}{account.pk}/statement/?{query}")
    assert response.status_code == 400
    assert [error["pointer"] for error in response.json()["errors"]] == [f"?{name}"]


def test_a_statement_reaches_to_the_ends_of_the_calendar(story, api):
    account, client = LedgerAccount.objects.get(owner=story.acme, kind="AVAILABLE"), api(story.acme)
    for since, until, lines in (
        ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", 2),
        ("0001-01-01T00:00:00Z", "0001-01-02T00:00:00Z", 0),
        ("9999-12-31T00:00:00Z", "9999-12-31T23:59:59Z", 0),
    ):
        page = client.get(f"{ACCOUNTS}{account.pk}/statement/?since={since}&until={until}").json()
        assert len(page["items"]) == lines
        assert page["closing"]["amount_minor"] - page["opening"]["amount_minor"] == sum(
            line["amount"]["amount_minor"] for line in page["items"]
        )


def test_transactions_can_be_chosen_by_status_and_by_either_instant(story, api):
    post_pending(
        entries=recipes.commit(buyer=story.acme, downpayment=usd("0"), expected=usd("1")),
        key="p",
        source="s",
        recipe="commit",
        at=AT + timedelta(days=2),
        actor=ACTOR,
    )
    client = api(story.platform)

    def keys(query):
        return [row["key"] for row in items(client.get(f"{TRANSACTIONS}?{query}"))]

    assert keys("status=pending") == ["p"]
    assert keys("status=posted") == ["r", "commit", "fund"]
    assert keys("since=2027-03-02T00:00:00Z") == ["p", "commit"]
    assert keys("since=2027-03-02T00:00:00Z&until=2027-03-03T00:00:00Z") == ["commit"]
    recorded = LedgerTransaction.objects.get(key="r").recorded_at.isoformat().replace("+00:00", "Z")
    assert keys(f"by=recorded&since={recorded}") == ["p", "r"]
    for wrong in (
        "status=lost",
        "by=colour",
        "since=2027-03-02",
        "until=2027-03-02T00:00:00Z&since=2028-01-01T00:00:00Z",
    ):
        assert client.get(f"{TRANSACTIONS}?{wrong}").status_code == 400, wrong


def test_a_transaction_names_what_reverses_it_to_those_who_see_that(story, api, posted):
    funds = {"platform": story.platform, "amount": usd("2")}
    both = (
        *recipes.fund_wallet(buyer=story.acme, **funds),
        *recipes.fund_wallet(buyer=story.northwind, **funds),
    )
    original = posted("fund_wallet", both, "both")
    back = [
        reverse(
            transaction=original, key=f"back:{owner}", at=AT, actor=ACTOR, reason="wrong",
            entries=recipes.mirrored(recipes.fund_wallet(buyer=owner, **funds)),
        )
        for owner in (story.acme, story.northwind)
    ]  # fmt: skip
    path = f"{TRANSACTIONS}{original.pk}/"
    assert api(story.platform).get(path).json()["reversal_ids"] == [str(row.pk) for row in back]
    assert api(story.acme).get(path).json()["reversal_ids"] == [str(back[0].pk)]
    assert api(story.bridge).get(path).status_code == 404
    (seen,) = items(api(story.acme).get(f"{TRANSACTIONS}?key=back:{story.acme}"))
    assert (seen["reverses_id"], seen["reversal_ids"]) == (str(original.pk), [])


def test_a_transaction_says_which_closed_period_it_adjusts(story, api, posted):
    keep(margin=timedelta(0), limit=10)
    begin_closing(month=AT.date(), actor=ACTOR, at=AT + timedelta(days=40))
    entries = recipes.fund_wallet(platform=story.platform, buyer=story.acme, amount=usd("2"))
    posted("fund_wallet", entries, "late", AT + timedelta(days=5))
    (row,) = items(api(story.acme).get(f"{TRANSACTIONS}?key=late"))
    assert row["adjusts_period_id"] == str(LedgerPeriod.objects.get().pk)
    assert (row["effective_at"], row["meant_at"]) == ("2027-04-01T00:00:00Z", "2027-03-06T00:00:00Z")
    (plain,) = items(api(story.acme).get(f"{TRANSACTIONS}?key=fund"))
    assert (plain["adjusts_period_id"], plain["meant_at"]) == (None, None)


def test_what_is_held_in_a_stablecoin_can_be_found_read_and_taken_back_in_part(story, api, posted):
    coins = Money.parse("12.5", "USDC")
    funded = posted(
        "fund_wallet", recipes.fund_wallet(platform=story.platform, buyer=story.acme, amount=coins), "coins"
    )
    client = api(story.platform, "ledger:read", "ledger:write")
    accounts = {row["kind"]: row for row in items(client.get(f"{ACCOUNTS}?currency=USDC"))}
    assert accounts["AVAILABLE"]["posted"] == money(12_500_000, "USDC")
    (total,) = client.get("/api/v1/ledger/trial-balance/?currency=USDC").json()["totals"]
    assert total["debit"] == money(12_500_000, "USDC")
    wrong = client.get(f"{ACCOUNTS}?currency=DOGE")
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (400, "?currency")
    part = money(500_000, "USDC")
    body = {
        "reason": "Too much.",
        "parts": [{"account_id": row["id"], "amount": part} for row in accounts.values()],
    }
    answer = client.post(f"{TRANSACTIONS}{funded.pk}/reversal-requests/", body)
    assert answer.status_code == 201, answer.content
    assert answer.json()["value"] == part


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

"""Balances as of any instant and statements, with entries that arrive out of order."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from commerce.errors import InvalidInput
from ledger.models import LedgerAccount, LedgerMonth, LedgerTransaction
from ledger.rules import recipes
from ledger.services import Place, balance, balances, keep, statement
from tests.ledger.conftest import AT, holds, usd

HOUR = timedelta(hours=1)


@pytest.fixture
def history(people, posted):
    """Acme is funded 1, 2, 4 and 8 dollars; the third is known last but happened second."""
    for amount, at in (("1", AT), ("2", AT + 30 * HOUR), ("8", AT + 50 * HOUR), ("4", AT + 10 * HOUR)):
        entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(amount))
        posted("fund_wallet", entries, f"fund:{amount}", at=at)
    return people


@pytest.mark.parametrize(
    ("hours", "dollars"),
    [(-1, 0), (0, 1), (9.99, 1), (10, 5), (23.99, 5), (24, 5), (30, 7), (49, 7), (50, 15), (9999, 15)],
)
def test_the_balance_as_of_an_instant_counts_what_had_happened_by_then(history, hours, dollars):
    at = AT + timedelta(hours=hours)
    for owner, kind in ((history.acme, "AVAILABLE"), (history.platform, "CASH_BANK")):
        assert balance(owner=owner, kind=kind, currency="USD", at=at) == dollars * 100
    by_kind = {b.account.kind: b.posted for b in balances(at=at, currency="USD")}
    assert by_kind == {"AVAILABLE": usd(str(dollars)), "CASH_BANK": usd(str(dollars))}


def test_an_instant_in_another_zone_is_the_same_instant(history):
    at = datetime.fromisoformat("2027-03-01T12:00:00+02:00")
    assert balance(owner=history.acme, kind="AVAILABLE", currency="USD", at=at) == 500


def test_a_naive_instant_is_refused(history):
    with pytest.raises(InvalidInput, match="no offset"):
        balance(owner=history.acme, kind="AVAILABLE", currency="USD", at=datetime(2027, 3, 1))


def test_an_account_that_was_never_used_holds_nothing(people):
    assert balance(owner=people.acme, kind="AVAILABLE", currency="USD") == 0
    assert balances(owner=people.acme) == []


def test_balances_can_be_chosen_by_owner_kind_and_currency(history):
    assert [b.account.kind for b in balances(owner=history.acme)] == ["AVAILABLE"]
    assert [b.account.kind for b in balances(kinds=["CASH_BANK"])] == ["CASH_BANK"]
    assert balances(currency="EUR") == []


def test_what_was_not_known_yet_is_left_out_of_any_balance(history):
    rows = LedgerTransaction.objects.in_bulk(field_name="key")
    before_the_last = rows["fund:4"].recorded_at - timedelta(microseconds=1)
    for owner, kind in ((history.acme, "AVAILABLE"), (history.platform, "CASH_BANK")):
        known = {"owner": owner, "kind": kind, "currency": "USD", "known_at": before_the_last}
        assert balance(**known) == 1100
        assert balance(**known, at=AT + 20 * HOUR) == 100
        assert balance(**known, at=AT + 50 * HOUR) == 1100
        nothing_yet = rows["fund:1"].recorded_at - timedelta(microseconds=1)
        assert balance(**{**known, "known_at": nothing_yet}) == 0


def test_months_of_business_time_and_of_knowledge_have_borders_of_their_own(history, posted):
    """Everything happened in the first days of March; what was known is asked in the months after."""
    cash = {"owner": history.platform, "kind": "CASH_BANK", "currency": "USD"}
    known = LedgerTransaction.objects.order_by("recorded_at").last().recorded_at
    last_of_february = AT - timedelta(microseconds=1)
    entries = recipes.fund_wallet(platform=history.platform, buyer=history.acme, amount=usd("32"))
    posted("fund_wallet", entries, "february", at=last_of_february)
    later = LedgerTransaction.objects.get(key="february").recorded_at
    for _ in range(2):
        assert balance(**cash, at=last_of_february, known_at=known) == 0
        assert balance(**cash, at=last_of_february, known_at=later) == 3200
        assert balance(**cash, at=AT, known_at=known) == 100
        assert balance(**cash, at=AT, known_at=later + timedelta(days=62)) == 3300
        assert balance(**cash, at=AT + timedelta(days=31), known_at=known + timedelta(days=366)) == 4700
        assert balance(**cash, at=AT + timedelta(days=31), known_at=known - timedelta(days=366)) == 0
        keep(margin=timedelta(0))
    assert LedgerMonth.objects.filter(account__kind="CASH_BANK").count() == 2


def test_a_statement_runs_newest_first_with_the_balance_after_each_line(history):
    for owner, kind in ((history.acme, "AVAILABLE"), (history.platform, "CASH_BANK")):
        account = LedgerAccount.objects.get(owner=owner, kind=kind)
        whole = statement(account=account)
        assert [(line.amount, line.balance) for line in whole.lines] == [
            (usd("8"), usd("15")),
            (usd("2"), usd("7")),
            (usd("4"), usd("5")),
            (usd("1"), usd("1")),
        ]
        assert whole.before is None


def test_a_statement_as_known_at_an_instant_leaves_out_what_was_recorded_later(history):
    account = LedgerAccount.objects.get(owner=history.acme)
    last = LedgerTransaction.objects.get(key="fund:4")
    earlier = statement(account=account, known_at=last.recorded_at - timedelta(microseconds=1))
    assert [(line.amount, line.balance) for line in earlier.lines] == [
        (usd("8"), usd("11")),
        (usd("2"), usd("3")),
        (usd("1"), usd("1")),
    ]
    assert earlier.closing == usd("11")


def test_a_statement_is_read_in_pages_that_meet_without_gap_or_overlap(history, posted):
    for number in range(5):  # five more at one instant, which only their order of recording tells apart
        entries = recipes.fund_wallet(platform=history.platform, buyer=history.acme, amount=usd("16"))
        posted("fund_wallet", entries, f"same:{number}", at=AT + 30 * HOUR)
    for account in LedgerAccount.objects.all():
        whole = statement(account=account)
        pages, before = [], None
        while True:
            page = statement(account=account, limit=2, before=before)
            pages += page.lines
            if page.before is None:
                break
            before = Place.parse(str(page.before))
        assert pages == list(whole.lines)
        assert len(pages) == 9
        for newer, older in pairwise(pages):
            assert newer.balance - newer.amount == older.balance


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "2027-03-01~x~0~1",
        "2027-03-01T00:00:00+00:00~2027-03-01~0",
        f"2027-03-01~2027-03-01~{2**15}~1",
        f"2027-03-01~2027-03-01~0~{2**63}",
        "2027-03-01~2027-03-01~-1~1",
    ],
)
def test_a_place_that_is_none_is_refused(text):
    with pytest.raises(InvalidInput, match="no place"):
        Place.parse(text)


def test_a_statement_is_one_query_whatever_it_asks(history, django_assert_num_queries):
    account = LedgerAccount.objects.get(owner=history.acme)
    period = {"since": AT, "until": AT + 60 * HOUR}
    for asked in ({}, {"limit": 1}, period, {**period, "known_at": datetime.now(UTC)}):
        with django_assert_num_queries(1):
            (line, *_) = statement(account=account, **asked).lines
            row = line.entry.transaction
            shown = (row.pk, row.key, row.source, row.recipe, row.description)
        kept = LedgerTransaction.objects.get(key="fund:8")
        assert shown == (kept.pk, "fund:8", "test:fund:8", "fund_wallet", kept.description)
        assert line.entry == kept.entries.get(account=account)
        assert (line.entry.transaction_id, line.entry.currency, line.entry.balance_after) == (
            kept.pk,
            "USD",
            1100,  # as it was recorded, before the four
        )


def test_a_statement_in_which_nothing_happened_still_opens_and_closes(history):
    account = LedgerAccount.objects.get(owner=history.acme)
    quiet = statement(account=account, since=AT + 31 * HOUR, until=AT + 49 * HOUR)
    assert (list(quiet.lines), quiet.before, quiet.opening, quiet.closing) == ([], None, usd("7"), usd("7"))
    before_all = statement(account=account, until=AT)
    assert (list(before_all.lines), before_all.closing) == ([], usd("0"))


def test_a_later_page_of_a_period_keeps_its_opening_and_closing(history):
    account = LedgerAccount.objects.get(owner=history.acme)
    period = {"account": account, "since": AT, "until": AT + 50 * HOUR, "limit": 2}
    first = statement(**period)
    second = statement(**period, before=first.before)
    assert [line.balance for line in (*first.lines, *second.lines)] == [usd("7"), usd("5"), usd("1")]
    assert second.before is None
    for page in (first, second):
        assert (page.opening, page.closing) == (usd("0"), usd("7"))


def test_a_place_above_the_period_begins_at_its_end(history):
    account = LedgerAccount.objects.get(owner=history.acme)
    place = Place.of(statement(account=account, limit=1).lines[0].entry)
    period = statement(account=account, until=AT + 30 * HOUR, before=place)
    assert period.lines == statement(account=account, until=AT + 30 * HOUR).lines
    assert [line.balance for line in period.lines] == [usd("5"), usd("1")]


@pytest.mark.parametrize("name", ["since", "until", "known_at"])
def test_a_statement_refuses_a_naive_instant(history, name):
    account = LedgerAccount.objects.get(owner=history.acme)
    with pytest.raises(InvalidInput, match="no offset") as refused:
        statement(account=account, **{name: datetime(2027, 3, 1)})
    assert [error.pointer for error in refused.value.errors] == [f"/{name}"]


def test_a_statement_of_a_period_runs_from_its_opening_to_its_closing(history):
    account = LedgerAccount.objects.get(owner=history.acme)
    period = statement(account=account, since=AT + 10 * HOUR, until=AT + 50 * HOUR)
    assert [(line.amount, line.balance) for line in period.lines] == [
        (usd("2"), usd("7")),
        (usd("4"), usd("5")),
    ]
    assert (period.opening, period.closing) == (usd("1"), usd("7"))


def test_money_that_left_again_shows_on_both_normal_sides(history, posted):
    p = history
    posted("return_pay_in", recipes.return_pay_in(platform=p.platform, buyer=p.acme, amount=usd("5")), "back")
    assert holds(p.acme, "AVAILABLE") == holds(p.platform, "CASH_BANK") == usd("10")
    cash = LedgerAccount.objects.get(kind="CASH_BANK")
    amounts = [line.amount for line in statement(account=cash, until=AT + HOUR).lines]
    assert amounts == [usd("-5"), usd("1")]

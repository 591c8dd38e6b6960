"""Balances as of any instant and statements, with entries that arrive out of order."""

from datetime import datetime, timedelta

import pytest

from commerce.errors import InvalidInput
from ledger.models import LedgerAccount
from ledger.rules import recipes
from ledger.services import balance, balances, statement
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


def test_a_statement_runs_newest_first_with_the_balance_after_each_line(history):
    for owner, kind in ((history.acme, "AVAILABLE"), (history.platform, "CASH_BANK")):
        account = LedgerAccount.objects.get(owner=owner, kind=kind)
        whole = statement(account=account)
        assert [(line.amount, line.balance) for line in whole.lines] == [
            (usd("4"), usd("15")),
            (usd("8"), usd("11")),
            (usd("2"), usd("3")),
            (usd("1"), usd("1")),
        ]
        assert whole.before is None


def test_a_statement_is_read_in_pages_that_meet_without_gap_or_overlap(history):
    account = LedgerAccount.objects.get(owner=history.acme)
    first = statement(account=account, limit=3)
    second = statement(account=account, limit=3, before=first.before)
    assert [line.entry.version for line in first.lines] == [4, 3, 2]
    assert [line.entry.version for line in second.lines] == [1]
    assert second.before is None


def test_a_statement_costs_two_queries_whatever_its_length(history, django_assert_num_queries):
    account = LedgerAccount.objects.get(owner=history.acme)
    with django_assert_num_queries(2):
        assert [line.entry.transaction.key for line in statement(account=account).lines][-1] == "fund:1"


def test_a_statement_of_a_period_opens_and_closes_and_keeps_the_running_balance(history):
    account = LedgerAccount.objects.get(owner=history.acme)
    period = statement(account=account, since=AT + 10 * HOUR, until=AT + 50 * HOUR)
    assert [(line.amount, line.balance) for line in period.lines] == [
        (usd("4"), usd("15")),
        (usd("2"), usd("3")),
    ]
    assert (period.opening, period.closing) == (usd("1"), usd("7"))
    assert sum(line.amount.minor for line in period.lines) == (period.closing - period.opening).minor


def test_money_that_left_again_shows_on_both_normal_sides(history, posted):
    p = history
    posted("return_pay_in", recipes.return_pay_in(platform=p.platform, buyer=p.acme, amount=usd("5")), "back")
    assert holds(p.acme, "AVAILABLE") == holds(p.platform, "CASH_BANK") == usd("10")
    cash = LedgerAccount.objects.get(kind="CASH_BANK")
    assert statement(account=cash, limit=1).lines[0].amount == usd("-5")

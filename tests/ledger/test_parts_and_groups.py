"""Reversing and settling in part, groups that fall alone, and the platform's accounts in stripes."""

import pytest
from django.db import connection

from commerce.errors import Conflict, InsufficientFunds, InvalidInput, StateConflict
from ledger.models import LedgerAccount, LedgerBalance, LedgerEntry, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.recipes import mirrored
from ledger.services import (
    Posting,
    balance,
    balances,
    opposite,
    post_all,
    post_groups,
    post_pending,
    posting,
    reverse,
    settle_pending,
    statement,
)
from tests.ledger.conftest import ACTOR, AT, holds, make_people, usd
from tests.ledger.test_concurrency import together
from tests.ledger.test_invariants import findings


def funding(people, amount, key):
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(amount))
    return Posting(entries, key, "test", "fund_wallet", AT)


def setting_aside(people, amount, key):
    entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd(amount))
    return Posting(entries, key, "test", "commit", AT)


def taking_back(people, amount):
    return mirrored(recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(amount)))


def take_back(people, row, amount, key):
    return reverse(
        transaction=row, key=key, at=AT, actor=ACTOR, reason="part", entries=taking_back(people, amount)
    )


@pytest.fixture
def funded(people):
    (row,) = post_all(postings=[funding(people, "100", "fund")], actor=ACTOR)
    return row


def test_parts_of_a_posting_are_taken_back_until_nothing_is_left(people, funded):
    parts = [take_back(people, funded, amount, f"part:{amount}") for amount in ("30", "50", "20")]
    assert [part.reverses for part in parts] == [funded] * 3
    assert list(funded.reversals.order_by("id")) == parts
    assert holds(people.acme, "AVAILABLE") == holds(people.platform, "CASH_BANK") == usd("0")
    with pytest.raises(StateConflict, match="reversed already") as refused:
        take_back(people, funded, "0.01", "part:more")
    assert refused.value.code == "already_reversed"
    with pytest.raises(StateConflict):
        reverse(transaction=funded, key="whole", at=AT, actor=ACTOR, reason="all")
    assert LedgerTransaction.objects.count() == 4
    assert findings() == {}


def test_no_more_is_taken_back_than_was_posted(people, funded):
    take_back(people, funded, "60", "first")
    with pytest.raises(InvalidInput, match=r"40\.00 USD can still be reversed") as refused:
        take_back(people, funded, "40.01", "second")
    assert (refused.value.code, refused.value.extra["left_minor"]) == ("more_than_posted", 4000)
    with pytest.raises(InvalidInput, match="can still be reversed"):
        reverse(transaction=funded, key="whole", at=AT, actor=ACTOR, reason="all")
    assert holds(people.acme, "AVAILABLE") == usd("40")
    assert LedgerTransaction.objects.count() == 2


def test_a_reversal_touches_only_the_accounts_and_sides_of_the_original(people, funded):
    same_side = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("1"))
    elsewhere = mirrored(
        recipes.fund_wallet(platform=people.platform, buyer=people.northwind, amount=usd("1"))
    )
    for number, entries in enumerate((same_side, elsewhere)):
        with pytest.raises(InvalidInput, match=r"0\.00 USD can still be reversed"):
            reverse(
                transaction=funded, key=f"odd:{number}", at=AT, actor=ACTOR, reason="odd", entries=entries
            )
    assert LedgerTransaction.objects.count() == 1


def test_a_part_sent_twice_is_taken_back_once(people, funded):
    first = take_back(people, funded, "60", "part")
    assert take_back(people, funded, "60", "part") == first
    with pytest.raises(Conflict) as refused:
        take_back(people, funded, "59", "part")
    assert refused.value.code == "key_conflict"
    assert holds(people.acme, "AVAILABLE") == usd("40")


def test_two_parts_of_one_call_count_together(people, funded):
    def part(amount, key):
        entries = taking_back(people, amount)
        return Posting(entries, key, "test", "reversal", AT, reverses=funded.pk)

    with pytest.raises(InvalidInput, match=r"100\.00 USD can still be reversed"):
        post_all(postings=[part("60", "a"), part("60", "b")], actor=ACTOR)
    assert post_all(postings=[part("60", "a"), part("40", "b")], actor=ACTOR)
    assert holds(people.acme, "AVAILABLE") == usd("0")


@pytest.mark.django_db(transaction=True)
def test_people_who_take_parts_back_at_the_same_time_share_what_was_posted():
    people = make_people()
    (row,) = post_all(postings=[funding(people, "100", "fund")], actor=ACTOR)

    def tens(number):
        try:
            return take_back(people, row, "30", f"part:{number}")
        except (InvalidInput, StateConflict) as refusal:
            return refusal

    results = together(tens)
    assert len([r for r in results if isinstance(r, LedgerTransaction)]) == 3
    assert holds(people.acme, "AVAILABLE") == usd("10")
    assert findings() == {}


def test_a_pending_transaction_is_settled_with_less_and_the_rest_is_free_again(people, funded):
    entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("70"))
    pending = post_pending(entries=entries, key="p", source="t", recipe="commit", at=AT, actor=ACTOR)
    less = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("45"))
    settled = settle_pending(transaction=pending, key="s", at=AT, actor=ACTOR, entries=less)
    assert settled.resolves == pending
    (wallet,) = balances(owner=people.acme, kinds=["AVAILABLE"])
    assert (wallet.posted, wallet.pending, wallet.available) == (usd("55"), usd("55"), usd("55"))
    assert holds(people.acme, "COMMITTED") == usd("45")
    assert findings() == {}


def test_a_pending_transaction_is_not_settled_with_more(people, funded):
    entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("70"))
    pending = post_pending(entries=entries, key="p", source="t", recipe="commit", at=AT, actor=ACTOR)
    more = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("70.01"))
    with pytest.raises(InvalidInput, match=r"70\.00 USD can still be settled") as refused:
        settle_pending(transaction=pending, key="s", at=AT, actor=ACTOR, entries=more)
    assert refused.value.code == "more_than_pending"
    (wallet,) = balances(owner=people.acme, kinds=["AVAILABLE"])
    assert (wallet.posted, wallet.available) == (usd("100"), usd("30"))


def test_a_refused_group_falls_alone_and_whole(people, funded):
    groups = [
        [setting_aside(people, "10", "a1"), setting_aside(people, "20", "a2")],
        [setting_aside(people, "1", "b1"), setting_aside(people, "1000", "b2")],
        [funding(people, "5", "c1")],
        [setting_aside(people, "60", "d1")],
    ]
    first, second, third, fourth = post_groups(groups=groups, actor=ACTOR)
    assert [row.key for row in first] == ["a1", "a2"]
    assert isinstance(second, InsufficientFunds)
    assert [row.key for row in [*third, *fourth]] == ["c1", "d1"]
    assert not LedgerTransaction.objects.filter(key__startswith="b").exists()
    assert holds(people.acme, "AVAILABLE") == usd("15")
    again = post_groups(groups=groups, actor=ACTOR)
    assert again[0] == first
    assert isinstance(again[1], InsufficientFunds)
    assert holds(people.acme, "AVAILABLE") == usd("15")
    assert findings() == {}


def test_groups_without_a_refusal_are_one_call(people, funded, monkeypatch):
    calls = []
    call = posting._call
    monkeypatch.setattr(posting, "_call", lambda arguments: calls.append(1) or call(arguments))
    post_groups(groups=[[setting_aside(people, "1", "open")]], actor=ACTOR)
    calls.clear()
    post_groups(groups=[[setting_aside(people, "1", f"g{n}")] for n in range(20)], actor=ACTOR)
    assert len(calls) == 1


def test_groups_refused_for_different_reasons_say_each_its_own(people, funded):
    answers = post_groups(
        groups=[
            [setting_aside(people, "500", "too much")],
            [funding(people, "7", "fund")],
            [funding(people, "1", "fine")],
        ],
        actor=ACTOR,
    )
    assert [getattr(answer, "code", "") for answer in answers] == ["insufficient_funds", "key_conflict", ""]
    assert holds(people.acme, "AVAILABLE") == usd("101")


def test_only_the_platforms_accounts_are_spread_over_stripes(people, funded):
    stripes = dict(LedgerAccount.objects.values_list("kind", "stripes"))
    assert stripes == {"CASH_BANK": 16, "AVAILABLE": 1}
    assert LedgerBalance.objects.filter(account__kind="CASH_BANK").count() == 16
    assert LedgerBalance.objects.filter(account__kind="AVAILABLE", stripe=0, floor=0).count() == 1


@pytest.mark.django_db(transaction=True)
def test_writers_to_a_hot_account_use_different_stripes_and_its_balance_is_exact():
    people = make_people()
    post_all(postings=[funding(people, "1", "open")], actor=ACTOR)
    held = []

    def pay_in(number):
        for turn in range(10):
            post_all(postings=[funding(people, str(number + 1), f"{number}:{turn}")], actor=ACTOR)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid() % 16")
            held.append(cursor.fetchone()[0])

    together(pay_in)
    cash = LedgerAccount.objects.get(kind="CASH_BANK")
    assert set(held) <= set(LedgerEntry.objects.filter(account=cash).values_list("stripe", flat=True))
    assert len(set(held)) > 1
    expected = 100 + sum((number + 1) * 1000 for number in range(8))
    assert balance(owner=people.platform, kind="CASH_BANK", currency="USD") == expected
    assert statement(account=cash, limit=1).lines[0].balance.minor == expected
    whole = statement(account=cash, limit=200)
    assert len(whole.lines) == 81
    assert whole.lines[-1].balance == whole.lines[-1].amount
    last = LedgerTransaction.objects.order_by("-recorded_at").first()
    assert (
        balance(owner=people.platform, kind="CASH_BANK", currency="USD", known_at=last.recorded_at)
        == expected
    )
    assert findings() == {}


def test_the_opposite_of_a_posting_balances_it(people, funded):
    (row,) = post_all(
        postings=[Posting(opposite(funded), "o", "t", "reversal", AT, reverses=funded.pk)], actor=ACTOR
    )
    assert row.reverses == funded
    assert all(held.posted.is_zero for held in balances())

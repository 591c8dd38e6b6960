"""The trial balance and the explanation of a balance: equal to the entries, whatever was kept or sealed."""

import random
from datetime import UTC, date, datetime, timedelta
from itertools import product

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from commerce.errors import InvalidInput
from commerce.money import Money
from ledger.models import LedgerAccount, LedgerEntry
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.services import explain, moved_by_day, post, trial_balance
from ledger.services import reverse as reverse_posting
from tests.ledger.conftest import ACTOR, AT, make_people, usd
from tests.ledger.test_periods import close, seal


def play(people, dice, turns=40, part=""):
    """Deposits, commitments and collections at random instants of February to May, recorded in any order."""
    start = datetime(2027, 2, 1, tzinfo=UTC)

    def at():
        return start + timedelta(seconds=dice.randrange(100 * 86_400))

    def write(recipe, entries, number):
        post(
            entries=entries, key=f"{recipe}:{part}:{number}", source="t", recipe=recipe, at=at(), actor=ACTOR
        )

    write("fund_wallet", fund(people, 100_000), "first")
    for number in range(turns):
        if dice.random() < 0.4:
            write("fund_wallet", fund(people, dice.randrange(1, 900)), number)
        elif dice.random() < 0.5:
            amount = usd(str(dice.randrange(1, 50)))
            write("commit", recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=amount), number)
        else:
            write("collect", collected(people, dice.randrange(20, 90)), number)


def fund(people, amount):
    return recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(str(amount)))


def collected(people, amount):
    return recipes.collect(
        platform=people.platform,
        buyer=people.acme,
        from_downpayment=usd("0"),
        from_committed=usd("0"),
        from_available=usd(str(amount)),
        tax=usd("2"),
        fee=usd("3"),
        payees={people.northwind: usd(str(amount - 5))},
    )


def by_entries(at=None, known_at=None):
    """What the trial balance must be: the sum of every entry, account by account."""
    sums = {}
    for entry in LedgerEntry.objects.all():
        if (at is None or entry.effective_at <= at) and (known_at is None or entry.recorded_at <= known_at):
            sums[str(entry.account_id)] = sums.get(str(entry.account_id), 0) + entry.amount
    return {account: amount for account, amount in sums.items() if amount}


def as_signed(trial):
    return {row.key: row.credit.minor - row.debit.minor for row in trial.rows}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", range(3))
def test_a_trial_balance_at_any_instant_is_the_sum_of_the_entries_sealed_closed_or_not(seed):
    dice, people = random.Random(seed), make_people()
    start = datetime(2027, 2, 1, tzinfo=UTC)
    instants = [
        None,
        start,
        datetime(2027, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2027, 4, 1, tzinfo=UTC),
    ]
    instants += [start + timedelta(seconds=dice.randrange(120 * 86_400)) for _ in range(8)]
    play(people, dice)
    for step in (None, seal, lambda: close(date(2027, 2, 1)), lambda: close(date(2027, 3, 1))):
        if step:
            step()
        for at in instants:
            trial = trial_balance(at=at, by="account")
            assert as_signed(trial) == by_entries(at)
            assert all(total.balances for total in trial.totals)
        post(
            entries=fund(people, 5), key=f"more:{step}", source="t", recipe="fund_wallet", at=AT, actor=ACTOR
        )


@pytest.mark.django_db(transaction=True)
def test_a_trial_balance_as_known_at_an_instant_leaves_out_what_was_recorded_later():
    people = make_people()
    play(people, random.Random(5), turns=10)
    known_at = LedgerEntry.objects.latest("recorded_at").recorded_at
    before = by_entries(AT)
    seal()
    post(entries=fund(people, 77), key="late", source="t", recipe="fund_wallet", at=AT, actor=ACTOR)
    assert as_signed(trial_balance(at=AT, known_at=known_at, by="account")) == before
    assert as_signed(trial_balance(at=AT, by="account")) == by_entries(AT) != before


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", range(2))
def test_a_trial_balance_at_two_instants_is_the_sum_of_the_entries_sealed_or_not(seed):
    dice, people = random.Random(seed), make_people()
    known = [datetime(2027, 3, 1, tzinfo=UTC)]
    for part in range(3):
        play(people, dice, turns=12, part=part)
        known.append(LedgerEntry.objects.latest("recorded_at").recorded_at)
        if part == 1:
            seal()
    known += [entry.recorded_at for entry in dice.sample(list(LedgerEntry.objects.all()), 3)]
    known += [now := timezone.now(), now.replace(hour=23, minute=59, second=59, microsecond=999_999)]
    start = datetime(2027, 2, 1, tzinfo=UTC)
    instants = [None, start, datetime(2027, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC)]
    instants += [start + timedelta(seconds=dice.randrange(120 * 86_400)) for _ in range(4)]
    seen = set()
    for known_at, at in product(known, instants):
        trial = trial_balance(at=at, known_at=known_at, by="account")
        assert as_signed(trial) == by_entries(at, known_at), (at, known_at)
        seen.add(tuple(sorted(as_signed(trial).items())))
    assert len(seen) > 15


def test_a_trial_balance_at_two_instants_asks_no_account_by_itself(played):
    known_at = LedgerEntry.objects.latest("recorded_at").recorded_at
    with connection.cursor() as cursor:
        cursor.execute("ALTER FUNCTION ledger_balance RENAME TO ledger_balance_of_one")
    assert as_signed(trial_balance(at=AT, known_at=known_at, by="account")) == by_entries(AT, known_at)


@pytest.fixture
def played(db):
    people = make_people()
    post(entries=fund(people, 1000), key="fund", source="t", recipe="fund_wallet", at=AT, actor=ACTOR)
    post(entries=collected(people, 100), key="c", source="t", recipe="collect", at=AT, actor=ACTOR)
    return people


def test_groups_are_counted_on_their_normal_side_and_debit_is_credit(played):
    by_kind = trial_balance(by="kind")
    rows = {row.label: row for row in by_kind.rows}
    assert (rows["Cash bank"].debit, rows["Cash bank"].balance) == (usd("1000"), usd("1000"))
    assert (rows["Available"].credit, rows["Available"].balance) == (usd("900"), usd("900"))
    assert [(t.debit, t.credit, t.balances) for t in by_kind.totals] == [(usd("1000"), usd("1000"), True)]
    classes = {row.label: row.balance for row in trial_balance(by="class").rows}
    assert classes == {"Asset": usd("1000"), "Liability": usd("997"), "Revenue": usd("3")}
    owners = {row.label: row.balance for row in trial_balance(by="owner").rows}
    assert owners["Acme"] == usd("900")
    assert sum(balance.minor for balance in owners.values()) == 0


def test_a_trial_balance_of_one_owner_or_currency_has_only_its_accounts(played):
    post(
        entries=recipes.fund_wallet(platform=played.platform, buyer=played.acme, amount=Money(50, "EUR")),
        key="eur", source="t", recipe="fund_wallet", at=AT, actor=ACTOR,
    )  # fmt: skip
    assert {row.currency for row in trial_balance().rows} == {"USD", "EUR"}
    assert {row.currency for row in trial_balance(currency="EUR").rows} == {"EUR"}
    mine = trial_balance(owner=played.northwind)
    assert [(row.label, row.balance) for row in mine.rows] == [("Pay-in holding", usd("95"))]
    assert not mine.totals[0].balances


def test_what_cannot_be_asked_is_refused_by_name(played):
    with pytest.raises(InvalidInput, match="grouped by") as refused:
        trial_balance(by="colour")
    assert refused.value.errors[0].pointer == "/by"
    with pytest.raises(InvalidInput) as refused:
        trial_balance(at=datetime(2027, 3, 1))
    assert refused.value.errors[0].pointer == "/at"
    account = LedgerAccount.objects.first()
    with pytest.raises(InvalidInput, match="later than since"):
        explain(account=account, since=AT, until=AT)


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(3))
def test_an_explanation_adds_up_to_the_change_by_recipe_and_by_counter_account(seed):
    dice, people = random.Random(seed), make_people()
    play(people, dice)
    since = datetime(2027, 3, 1, tzinfo=UTC)
    for account in LedgerAccount.objects.all():
        for until in (None, since + timedelta(days=dice.randrange(1, 40))):
            why = explain(account=account, since=since, until=until, limit=5)
            assert why.closing.minor - why.opening.minor == why.change.minor
            assert sum(part.change.minor for part in why.by_recipe) == why.change.minor
            assert sum(part.change.minor for part in why.by_counter) == why.change.minor
            assert len(why.largest) <= 5
            sizes = [abs(movement.change.minor) for movement in why.largest]
            assert sizes == sorted(sizes, reverse=True)


def test_an_explanation_names_causes_and_where_the_money_came_from(played):
    account = LedgerAccount.objects.get(kind="PLATFORM_FEES")
    posted = LedgerEntry.objects.get(account=account).transaction
    reverse_posting(transaction=posted, key="back", at=AT + timedelta(days=1), actor=ACTOR, reason="x")
    why = explain(account=account, since=AT)
    assert (why.opening, why.closing) == (usd("0"), usd("0"))
    assert {part.key: part.change for part in why.by_recipe} == {"collect": usd("3"), "reversal": usd("-3")}
    assert {movement.transaction.key for movement in why.largest} == {"c", "back"}
    first_day = explain(account=account, since=AT, until=AT + timedelta(hours=1))
    assert {part.label: part.change for part in first_day.by_counter} == {
        "Available": usd("100"),
        "Tax payable": usd("-2"),
        "Pay-in holding": usd("-95"),
    }
    nothing = explain(account=account, since=AT + timedelta(days=30))
    assert (nothing.by_recipe, nothing.by_counter, nothing.largest, nothing.change) == ([], [], [], usd("0"))


@pytest.mark.django_db
@pytest.mark.parametrize("most", [1, 7, 20, 1000])
def test_of_many_entries_the_newest_are_explained_and_what_was_before_is_said(monkeypatch, most):
    people = make_people()
    play(people, random.Random(1))
    monkeypatch.setattr("ledger.services.reports.LOOKED_AT", most)
    since = datetime(2027, 3, 1, tzinfo=UTC)
    bounded = 0
    for account in LedgerAccount.objects.all():
        entries = LedgerEntry.objects.filter(account=account, effective_at__gte=since)
        newest = list(entries.order_by("-effective_at", "-recorded_at")[:most])
        why = explain(account=account, since=since)
        if len(newest) < most:
            assert (why.looked_from, why.earlier.minor) == (None, 0)
        else:
            bounded += 1
            assert why.looked_from == newest[-1].effective_at
        looked = {entry.transaction_id for entry in newest}
        before = sum(entry.amount for entry in entries.exclude(transaction__in=looked))
        assert why.earlier.minor == account.on_normal_side(before)
        for parts in (why.by_recipe, why.by_counter):
            assert sum(part.change.minor for part in parts) + why.earlier.minor == why.change.minor
        assert {movement.transaction.pk for movement in why.largest} <= looked
    assert bounded == {1: 6, 7: 6, 20: 1, 1000: 0}[most]


def test_the_page_says_what_was_looked_at_only_when_it_was_not_all(played, client, monkeypatch):
    client.force_login(User.objects.create_superuser("root"))
    account = LedgerAccount.objects.get(kind="AVAILABLE")
    page = f"/admin/ledger/ledgeraccount/{account.pk}/change/?since=2027-02-01"
    whole = client.get(page).content.decode()
    assert "Fund wallet" in whole
    assert "were looked at" not in whole
    assert "Earlier, not looked at" not in whole
    monkeypatch.setattr("ledger.services.reports.LOOKED_AT", 1)
    part = client.get(page).content.decode()
    assert part.count("Earlier, not looked at") == 2
    assert "were looked at, from" in part


def test_the_trial_balances_page_counts_accounts_of_groups_only(played, client):
    client.force_login(User.objects.create_superuser("root"))
    page = "/admin/ledger/ledgeraccount/trial-balance/?by="
    assert ">Accounts</th>" in client.get(f"{page}kind").content.decode()
    by_account = client.get(f"{page}account").content.decode()
    assert ">Accounts</th>" not in by_account
    assert "Acme · Available" in by_account


def test_what_each_day_moved_is_the_sum_of_its_entries_sealed_or_not(db):
    people, dice = make_people(), random.Random(7)
    first, last = date(2027, 3, 1), date(2027, 3, 20)
    for part in ("kept", "since"):
        play(people, dice, part=part)
        naive = {}
        for entry in LedgerEntry.objects.filter(account__kind="CASH_BANK"):
            day = entry.effective_at.astimezone(UTC).date()
            if first <= day <= last:
                debit, credit = naive.get(day, (0, 0))
                naive[day] = (debit - min(entry.amount, 0), credit + max(entry.amount, 0))
        found = moved_by_day(kind=Kind.CASH_BANK, first=first, last=last)
        assert {row.day: (row.debit.minor, row.credit.minor) for row in found} == naive
        assert naive
        seal()
    assert moved_by_day(kind=Kind.CASH_BANK, first=last, last=first) == []

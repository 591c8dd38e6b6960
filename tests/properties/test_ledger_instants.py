"""Balances at two instants and statements equal plain sums over the entries, wherever the keeper is."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from commerce.errors import InsufficientFunds
from ledger.models import LedgerAccount, LedgerDay, LedgerEntry
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.services import Place, keep, open_accounts, post, statement
from tests.ledger.conftest import ACTOR, AT, make_people, usd
from tests.ledger.test_invariants import findings

HOUR = timedelta(hours=1)
LATER = datetime(9999, 1, 1, tzinfo=UTC)
# Recorded days lie in the future of the test, and so does what may be sealed.
ANY_TIME = timedelta(days=-365)
MICROSECOND = timedelta(microseconds=1)
# A posting so many hours before or after AT, where a month begins, or the keeper; then how many days pass.
STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(-72, 72), st.sampled_from([-40 * 24, 40 * 24]), st.just("keep")),
        st.sampled_from([0, 0, 0.4, 1, 2, 31]),
    ),
    min_size=2,
    max_size=8,
)


@pytest.mark.django_db
@settings(max_examples=25)
@given(steps=STEPS)
def test_a_balance_at_two_instants_is_the_sum_of_what_had_happened_and_was_known(steps):
    with transaction.atomic():
        play(steps)
        assert_balances_are_sums()
        keep(margin=ANY_TIME)
        assert LedgerDay.objects.exists() == LedgerEntry.objects.exists()
        assert_balances_are_sums()
        # The days that passed did so in the balances only, which `verify` sees and should.
        assert findings().keys() <= {"balance_instant"}
        transaction.set_rollback(True)


@pytest.mark.django_db
@settings(max_examples=25)
@given(steps=STEPS, limit=st.integers(1, 4), data=st.data())
def test_a_statement_is_the_entries_in_order_each_with_the_sum_so_far(steps, limit, data):
    with transaction.atomic():
        play(steps)
        entries = sorted(LedgerEntry.objects.all(), key=Place.of)
        bounds = [None, *borders({entry.effective_at for entry in entries} | {AT})]
        since, until = (data.draw(st.sampled_from(bounds)) for _ in "12")
        known_at = data.draw(st.sampled_from([None, *sorted({entry.recorded_at for entry in entries})]))
        for account in LedgerAccount.objects.all():
            known = [
                e for e in entries if e.account_id == account.pk and e.recorded_at <= (known_at or LATER)
            ]
            wanted = [
                (entry.pk, account.on_normal_side(sum(e.amount for e in known[: place + 1])))
                for place, entry in enumerate(known)
                if (since is None or entry.effective_at >= since)
                and (until is None or entry.effective_at < until)
            ]
            asked = {"account": account, "since": since, "until": until, "known_at": known_at}
            assert list(in_pages(limit=limit, **asked)) == wanted[::-1]
            whole = statement(**asked)
            assert [account.on_normal_side(edge.minor) for edge in (whole.opening, whole.closing)] == [
                sum(e.amount for e in known if since and e.effective_at < since),
                sum(e.amount for e in known if until is None or e.effective_at < until),
            ]
        transaction.set_rollback(True)


def in_pages(**asked):
    page = statement(**asked)
    while True:
        yield from ((line.entry.pk, line.balance.minor) for line in page.lines)
        if page.before is None:
            return
        page = statement(**asked, before=page.before)


def borders(instants):
    """Each instant, the beginnings of its day and month, and what comes just before those."""
    midnights = {at.replace(hour=0, minute=0, second=0, microsecond=0) for at in instants}
    firsts = midnights | {at.replace(day=1) for at in midnights}
    return sorted(instants | firsts | {at - MICROSECOND for at in firsts})


def play(steps):
    people = make_people()
    accounts = {(people.platform, Kind.CASH_BANK, "USD"), (people.acme, Kind.AVAILABLE, "USD")}
    open_accounts(accounts=accounts)
    for place, (step, days) in enumerate(steps):
        if step == "keep":
            keep(margin=ANY_TIME, limit=2)
        else:
            verb = recipes.return_pay_in if place % 3 == 2 else recipes.fund_wallet
            entries = verb(platform=people.platform, buyer=people.acme, amount=usd(str(2**place)))
            try:
                post(
                    entries=entries,
                    key=str(place),
                    source="test:instants",
                    recipe=verb.__name__,
                    at=AT + step * HOUR,
                    actor=ACTOR,
                )
            except InsufficientFunds:
                continue
        let_days_pass(days)


def let_days_pass(days):
    """The next posting is recorded no earlier than the balances say."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE ledger_ledgerbalance SET recorded_at = %s::interval"
            " + (SELECT max(recorded_at) FROM ledger_ledgerbalance)",
            [f"{days} days 1 microsecond"],
        )


def assert_balances_are_sums():
    entries = list(LedgerEntry.objects.all())
    recorded = borders({entry.recorded_at for entry in entries})
    effectives = borders({entry.effective_at for entry in entries} | {AT})
    questions = [
        (account, effective, known)
        for account in LedgerAccount.objects.values_list("pk", flat=True)
        for effective in (None, *effectives)
        for known in (None, *recorded)
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_balance(a, e, k)"
            " FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[]) q(a, e, k)",
            [list(column) for column in zip(*questions, strict=True)],
        )
        answers = [int(balance) for (balance,) in cursor.fetchall()]
    assert answers == [
        sum(
            entry.amount
            for entry in entries
            if entry.account_id == account
            and (effective is None or entry.effective_at <= effective)
            and (known is None or entry.recorded_at <= known)
        )
        for account, effective, known in questions
    ]

"""Balances at two instants equal a plain sum over the entries, wherever the keeper has got to."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from commerce.errors import InsufficientFunds
from ledger.models import LedgerAccount, LedgerDay, LedgerEntry
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.services import keep, open_accounts, post
from tests.ledger.conftest import ACTOR, AT, make_people, usd
from tests.ledger.test_invariants import findings

HOUR = timedelta(hours=1)
# Recorded days lie in the future of the test, and so does what may be sealed.
ANY_TIME = timedelta(days=-90)
# A posting by so many hours before or after AT, or the keeper; then how many days pass.
STEPS = st.lists(
    st.tuples(st.one_of(st.integers(-72, 72), st.just("keep")), st.sampled_from([0, 0, 1, 2])),
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
        assert findings() == {}
        transaction.set_rollback(True)


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
    recorded = {entry.recorded_at for entry in entries}
    midnights = {at.replace(hour=0, minute=0, second=0, microsecond=0) for at in recorded}
    effectives = {entry.effective_at for entry in entries}
    questions = [
        (account, effective, known)
        for account in LedgerAccount.objects.values_list("pk", flat=True)
        for effective in (None, AT, *effectives)
        for known in (None, *recorded, *midnights)
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

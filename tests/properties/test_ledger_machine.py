"""The ledger against a plain-Python model: any sequence of verbs gives the model's balances or refusals."""

from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import transaction as database
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from commerce.errors import Conflict, InsufficientFunds, StateConflict
from commerce.money import Money
from ledger.models import LedgerRelease
from ledger.rules.kinds import Kind
from ledger.rules.recipes import Entry
from ledger.services import (
    balance,
    balances,
    cancel_release,
    discard_pending,
    hold_release,
    lift_release,
    post,
    post_pending,
    release_due,
    reverse,
    schedule_release,
    settle_pending,
    statement,
)
from tests.ledger.conftest import ACTOR, AT, make_people
from tests.ledger.test_invariants import findings

KINDS = (
    Kind.AVAILABLE,
    Kind.COMMITTED,
    Kind.PAY_IN_HOLDING,
    Kind.PAYABLE,
    Kind.CASH_BANK,
    Kind.PLATFORM_FEES,
)
FLOORED = {kind for kind in KINDS if kind.nature.floor == 0}
CURRENCIES = ("USD", "JPY")
Account = tuple[UUID, Kind, str]


class LedgerMachine(RuleBasedStateMachine):
    """The model: credit-positive sums per account, what is set aside, and every movement with its instant."""

    transactions = Bundle("transactions")
    pendings = Bundle("pendings")
    releases = Bundle("releases")

    @initialize()
    def start(self):
        self.example = database.atomic()
        self.example.__enter__()
        people = make_people()
        self.owners = (people.platform, people.acme, people.northwind)
        self.posted: Counter[Account] = Counter()
        self.held: Counter[Account] = Counter()
        self.moves: list[tuple[Account, int, int]] = []
        self.reversed: set[UUID] = set()
        self.hour = 0
        self.keys = 0

    # the model's own arithmetic

    def legs(self, shape):
        """Account and credit-positive amount of a transfer between two accounts, perhaps the same one."""
        (owner_a, kind_a), (owner_b, kind_b), currency, amount = shape
        return [
            ((self.owners[owner_a], kind_a, currency), -amount),
            ((self.owners[owner_b], kind_b, currency), amount),
        ]

    def affordable(self, legs):
        change = Counter()
        for account, amount in legs:
            change[account] += amount
        return all(
            self.posted[account] - self.held[account] + amount >= 0
            for account, amount in change.items()
            if amount < 0 and account[1] in FLOORED
        )

    def can_hold(self, legs):
        return self.affordable([leg for leg in legs if leg[1] < 0])

    def apply(self, legs, hour):
        for account, amount in legs:
            self.posted[account] += amount
            self.moves.append((account, amount, hour))

    def set_aside(self, legs, sign):
        for account, amount in legs:
            self.held[account] += sign * max(-amount, 0)

    def arguments(self, hour):
        self.keys += 1
        return {"key": f"k{self.keys}", "at": AT + timedelta(hours=hour), "actor": ACTOR}

    @staticmethod
    def entries(legs):
        return [
            Entry(owner, kind, Money(abs(amount), currency), "credit" if amount > 0 else "debit")
            for (owner, kind, currency), amount in legs
        ]

    # the verbs

    ends = st.tuples(st.integers(0, 2), st.sampled_from(KINDS))
    shapes = st.tuples(ends, ends, st.sampled_from(CURRENCIES), st.integers(1, 30))
    hours = st.integers(-72, 72)

    @rule(target=transactions, shape=shapes, hour=hours)
    def post(self, shape, hour):
        legs, arguments = self.legs(shape), self.arguments(hour)
        call = {"entries": self.entries(legs), "source": "t", "recipe": "commit", **arguments}
        if not self.affordable(legs):
            with pytest.raises(InsufficientFunds):
                post(**call)
            return None
        row = post(**call)
        self.apply(legs, hour)
        assert post(**call).pk == row.pk
        with pytest.raises(Conflict):
            post(**{**call, "source": "other"})
        return row, legs

    @rule(target=pendings, shape=shapes, hour=hours)
    def pend(self, shape, hour):
        legs, arguments = self.legs(shape), self.arguments(hour)
        call = {"entries": self.entries(legs), "source": "t", "recipe": "commit", **arguments}
        if not self.can_hold(legs):
            with pytest.raises(InsufficientFunds):
                post_pending(**call)
            return None
        row = post_pending(**call)
        self.set_aside(legs, 1)
        return row, legs

    @rule(target=transactions, pending=consumes(pendings), hour=hours)
    def settle(self, pending, hour):
        if pending is None:
            return None
        row, legs = pending
        settled = settle_pending(transaction=row, **self.arguments(hour))
        self.set_aside(legs, -1)
        self.apply(legs, hour)
        with pytest.raises(StateConflict):
            discard_pending(transaction=row, **self.arguments(hour))
        return settled, legs

    @rule(pending=consumes(pendings), hour=hours)
    def discard(self, pending, hour):
        if pending is None:
            return
        row, legs = pending
        discard_pending(transaction=row, **self.arguments(hour))
        self.set_aside(legs, -1)
        with pytest.raises(StateConflict):
            settle_pending(transaction=row, **self.arguments(hour))

    @rule(target=transactions, transaction=transactions, hour=hours)
    def reverse(self, transaction, hour):
        if transaction is None:
            return None
        row, legs = transaction
        back = [(account, -amount) for account, amount in legs]
        call = {"transaction": row, "reason": "", **self.arguments(hour)}
        if row.pk in self.reversed:
            with pytest.raises(StateConflict):
                reverse(**call)
            return None
        if not self.affordable(back):
            with pytest.raises(InsufficientFunds):
                reverse(**call)
            return None
        written = reverse(**call)
        self.reversed.add(row.pk)
        self.apply(back, hour)
        return written, back

    @rule(target=releases, owner=st.integers(0, 2), amount=st.integers(1, 10), hours=st.integers(0, 48))
    def schedule(self, owner, amount, hours):
        arguments = self.arguments(0)
        due_at = AT + timedelta(hours=self.hour + hours)
        return schedule_release(
            owner=self.owners[owner], amount=Money(amount, "USD"), due_at=due_at, source="t", **arguments
        )

    @rule(release=releases, verb=st.sampled_from([hold_release, lift_release, cancel_release]))
    def steer(self, release, verb):
        try:
            verb(release=release, actor=ACTOR, at=AT, reason="")
        except StateConflict:
            pass

    @rule(hours=st.integers(0, 24))
    def tick(self, hours):
        self.hour += hours
        now = AT + timedelta(hours=self.hour)
        due = LedgerRelease.objects.filter(status="scheduled", due_at__lte=now).order_by("due_at", "id")
        expected = [(row.pk, row.owner_id, row.amount_minor) for row in due]
        paid = [
            (pk, [((owner, Kind.PAY_IN_HOLDING, "USD"), -amount), ((owner, Kind.PAYABLE, "USD"), amount)])
            for pk, owner, amount in expected
        ]
        count = release_due(at=now, actor=ACTOR)
        for pk, legs in paid:
            row = LedgerRelease.objects.get(pk=pk)
            assert row.status == ("released" if self.affordable(legs) else "held")
            if row.status == "released":
                count -= 1
                self.apply(legs, self.hour)
        assert count == 0

    # what must hold after every step

    @invariant()
    def every_balance_is_the_models(self):
        if not hasattr(self, "posted"):
            return
        for held in balances():
            account = (held.account.owner_id, Kind(held.account.kind), held.account.currency)
            signed = self.posted[account]
            assert held.posted.minor == held.account.on_normal_side(signed)
            if account[1] in FLOORED:
                assert held.available.minor == signed - self.held[account] >= 0

    @invariant()
    def every_balance_as_of_an_instant_is_the_models(self):
        if not hasattr(self, "moves"):
            return
        for hour in (-73, -24, -1, 0, 23, 24, 72):
            sums = Counter()
            for account, amount, moved in self.moves:
                sums[account] += amount if moved <= hour else 0
            for (owner, kind, currency), signed in sums.items():
                seen = balance(owner=owner, kind=kind, currency=currency, at=AT + timedelta(hours=hour))
                assert seen == (signed if kind.nature.normal == "credit" else -signed)

    def teardown(self):
        if not hasattr(self, "moves"):
            return
        try:
            assert sum(self.posted.values()) == 0
            assert {name for name in findings() if name != "overdue_releases"} == set()
            for held in balances():
                page = statement(account=held.account, limit=1000)
                assert page.closing == held.posted
                if page.lines:
                    assert page.lines[0].balance == held.posted
                    assert page.lines[-1].balance == page.lines[-1].amount
        finally:
            database.set_rollback(True)
            self.example.__exit__(None, None, None)


@pytest.mark.django_db
def test_any_sequence_of_verbs_agrees_with_the_model():
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=40, stateful_step_count=25))

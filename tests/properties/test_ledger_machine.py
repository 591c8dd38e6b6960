"""The ledger against a plain-Python model: any sequence of verbs gives the model's balances or refusals."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import pytest
from django.db import connection
from django.db import transaction as database
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from commerce.errors import Conflict, InsufficientFunds, InvalidInput, StateConflict
from commerce.money import Money
from commerce.states import transition
from ledger.models import LedgerPeriod, LedgerPeriodBalance, LedgerRelease, LedgerTransaction
from ledger.rules.kinds import Kind
from ledger.rules.recipes import Entry
from ledger.services import (
    Posting,
    balances,
    begin_closing,
    cancel_release,
    discard_pending,
    hold_release,
    keep,
    lift_release,
    post,
    post_groups,
    post_pending,
    release_due,
    reverse,
    schedule_release,
    settle_pending,
    statement,
)
from ledger.services.periods import reopen
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
Legs = list[tuple[Account, int]]
OVER = datetime(2027, 9, 1, tzinfo=UTC)
INSTANTS = (-73, -24, -1, 0, 23, 24, 72, 743, 744)


class Move(NamedTuple):
    account: Account
    amount: int
    hour: int
    recorded_at: datetime


@dataclass
class Written:
    """A posted transfer between two accounts, and how much of it can still be taken back."""

    row: LedgerTransaction
    legs: Legs
    left: int


def hours_until(day: date) -> int:
    return (datetime(day.year, day.month, day.day, tzinfo=UTC) - AT) // timedelta(hours=1)


def month_of(hour: int) -> date:
    return (AT + timedelta(hours=hour)).date().replace(day=1)


def after(month: date) -> date:
    return (month + timedelta(days=32)).replace(day=1)


class LedgerMachine(RuleBasedStateMachine):
    """The model: credit-positive sums per account, what is set aside, every movement with its instants,
    and the months that take no postings."""

    transactions = Bundle("transactions")
    pendings = Bundle("pendings")
    releases = Bundle("releases")
    reached: Counter[str] = Counter()

    @initialize()
    def start(self):
        self.example = database.atomic()
        self.example.__enter__()
        people = make_people()
        self.owners = (people.platform, people.acme, people.northwind)
        self.posted: Counter[Account] = Counter()
        self.held: Counter[Account] = Counter()
        self.moves: list[Move] = []
        self.calls = []
        self.shut: list[LedgerPeriod] = []
        self.unsealed = self.hour = self.keys = self.steps = 0

    # the model's own arithmetic

    def legs(self, shape) -> Legs:
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

    def took(self, row, hour):
        """A new row stands where it was meant to, or else at the end of the months that are shut."""
        line = hours_until(self.shut[-1].ends_on) if self.shut else hour
        period = next((p for p in self.shut if hour < hours_until(p.ends_on)), None)
        moved = max(hour, line) if period else hour
        assert row.effective_at == AT + timedelta(hours=moved)
        assert row.adjusts_period_id == (period.pk if period else None)
        assert row.meant_at == (AT + timedelta(hours=hour) if period else None)
        self.unsealed += 1
        self.reached["moved to an open month"] += period is not None
        return moved

    def apply(self, row, legs, hour):
        hour = self.took(row, hour)
        for account, amount in legs:
            self.posted[account] += amount
            self.moves.append(Move(account, amount, hour, row.recorded_at))
        return Written(row, legs, abs(legs[0][1]))

    def set_aside(self, legs, sign):
        for account, amount in legs:
            self.held[account] += sign * max(-amount, 0)

    def arguments(self, hour):
        self.keys += 1
        return {"key": f"k{self.keys}", "at": AT + timedelta(hours=hour), "actor": ACTOR}

    def call(self, legs, hour):
        return {"entries": self.entries(legs), "source": "t", "recipe": "commit", **self.arguments(hour)}

    @staticmethod
    def entries(legs):
        return [
            Entry(owner, kind, Money(abs(amount), currency), "credit" if amount > 0 else "debit")
            for (owner, kind, currency), amount in legs
        ]

    @staticmethod
    def part(legs, minor, sign=1):
        return [(account, sign * minor * (1 if amount > 0 else -1)) for account, amount in legs]

    # the verbs

    ends = st.tuples(st.integers(0, 2), st.sampled_from(KINDS))
    shapes = st.tuples(ends, ends, st.sampled_from(CURRENCIES), st.integers(1, 30))
    hours = st.integers(-72, 72)

    @rule(target=transactions, shape=shapes, hour=hours)
    def post(self, shape, hour):
        legs = self.legs(shape)
        call = self.call(legs, hour)
        if not self.affordable(legs):
            with pytest.raises(InsufficientFunds):
                post(**call)
            return None
        row = post(**call)
        self.calls.append((call, row))
        return self.apply(row, legs, hour)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def repeat(self, data):
        """Whatever has happened since, whoever owns nothing any more, whichever month is closed."""
        call, row = data.draw(st.sampled_from(self.calls))
        assert post(**call) == row
        with pytest.raises(Conflict):
            post(**{**call, "source": "other"})

    @rule(groups=st.lists(st.lists(shapes, min_size=1, max_size=2), min_size=1, max_size=4), hour=hours)
    def post_in_groups(self, groups, hour):
        legs = [[self.legs(shape) for shape in group] for group in groups]
        postings = [[self.posting(one, hour) for one in group] for group in legs]
        answers = post_groups(groups=postings, actor=ACTOR)
        expected = self.outcome(legs)
        self.reached["one group refused, another taken"] += len(set(expected)) == 2
        for taken, group, answer in zip(expected, legs, answers, strict=True):
            if not taken:
                assert isinstance(answer, InsufficientFunds)
                continue
            for row, one in zip(answer, group, strict=True):
                self.apply(row, one, hour)

    def posting(self, legs, hour):
        self.keys += 1
        return Posting(self.entries(legs), f"k{self.keys}", "t", "commit", AT + timedelta(hours=hour))

    def outcome(self, groups):
        """All together, or each half for itself: one group's money serves another if both can be taken."""
        spent = Counter()

        def judge(some):
            legs = [leg for group in some for one in group for leg in one]
            if self.affordable([*legs, *spent.items()]):
                for account, amount in legs:
                    spent[account] += amount
                return [True] * len(some)
            if len(some) == 1:
                return [False]
            middle = len(some) // 2
            return [*judge(some[:middle]), *judge(some[middle:])]

        return judge(groups)

    @rule(target=pendings, shape=shapes, hour=hours)
    def pend(self, shape, hour):
        legs = self.legs(shape)
        call = self.call(legs, hour)
        if not self.can_hold(legs):
            with pytest.raises(InsufficientFunds):
                post_pending(**call)
            return None
        row = post_pending(**call)
        self.took(row, hour)
        self.set_aside(legs, 1)
        return row, legs

    @rule(target=transactions, pending=consumes(pendings), less=st.integers(0, 29), hour=hours)
    def settle(self, pending, less, hour):
        """With all that was set aside, or less, and never with more."""
        if pending is None:
            return None
        row, legs = pending
        most = legs[1][1]
        more = self.entries(self.part(legs, most + 1))
        with pytest.raises(InvalidInput):
            settle_pending(transaction=row, entries=more, **self.arguments(hour))
        legs_now = self.part(legs, max(most - less, 1))
        entries = self.entries(legs_now) if less else None
        settled = settle_pending(transaction=row, entries=entries, **self.arguments(hour))
        self.set_aside(legs, -1)
        self.reached["settled with less"] += legs_now != legs
        with pytest.raises(StateConflict):
            discard_pending(transaction=row, **self.arguments(hour))
        return self.apply(settled, legs_now, hour)

    @rule(pending=consumes(pendings), hour=hours)
    def discard(self, pending, hour):
        if pending is None:
            return
        row, legs = pending
        self.took(discard_pending(transaction=row, **self.arguments(hour)), hour)
        self.set_aside(legs, -1)
        with pytest.raises(StateConflict):
            settle_pending(transaction=row, **self.arguments(hour))

    @rule(
        target=transactions, written=transactions, minor=st.one_of(st.none(), st.integers(1, 30)), hour=hours
    )
    def reverse(self, written, minor, hour):
        """Wholly, or a part of it, as long as something is left."""
        if written is None:
            return None
        back = self.part(written.legs, minor or abs(written.legs[0][1]), -1)
        call = {"transaction": written.row, "reason": "", **self.arguments(hour)}
        call["entries"] = self.entries(back) if minor else None
        if back[0][1] and abs(back[0][1]) > written.left:
            with pytest.raises(InvalidInput if written.left else StateConflict):
                reverse(**call)
            return None
        if not self.affordable(back):
            with pytest.raises(InsufficientFunds):
                reverse(**call)
            return None
        row = reverse(**call)
        written.left -= abs(back[0][1])
        self.reached["taken back in part"] += written.left > 0
        return self.apply(row, back, hour)

    @rule(shape=shapes, hour=hours)
    def crash(self, shape, hour):
        """Work that is not committed leaves nothing, not even its key."""
        legs, keys = self.legs(shape), self.keys
        if not self.affordable(legs) or not self.can_hold(legs * 2):
            return
        point = database.savepoint()
        post(**self.call(legs, hour))
        if self.can_hold(legs):
            held = post_pending(**self.call(legs, hour))
            settle_pending(transaction=held, **self.arguments(hour))
        keep(margin=timedelta(0))
        database.savepoint_rollback(point)
        self.reached["rolled back"] += 1
        self.keys = keys

    # what is kept behind the postings, and the months

    @rule()
    def seal(self):
        assert keep(margin=timedelta(0)) == self.unsealed
        self.unsealed = 0

    def next_month(self):
        if self.shut:
            return self.shut[-1].ends_on
        return month_of(min(move.hour for move in self.moves))

    @precondition(lambda self: self.moves and len(self.shut) < 4 and self.all_closed())
    @rule()
    def begin_closing(self):
        month = self.next_month()
        with pytest.raises(StateConflict):
            begin_closing(month=after(month), actor=ACTOR, at=OVER)
        self.shut.append(begin_closing(month=month, actor=ACTOR, at=OVER))

    def all_closed(self):
        return all(period.status == "closed" for period in self.shut)

    @precondition(lambda self: not self.all_closed())
    @rule()
    def finish_closing(self):
        """The steps of the service, which itself refuses to run inside a transaction."""
        self.seal()
        period = self.shut[-1]
        with connection.cursor() as cursor:
            cursor.execute("SELECT ledger_keep_period(%s)", [period.pk])
        self.shut[-1] = transition(period, "finish_closing", actor=ACTOR, at=OVER)
        self.reached["closed"] += 1
        closings = self.sums(hours_until(period.ends_on) - 1)
        kept = LedgerPeriodBalance.objects.filter(period=period).select_related("account")
        assert {self.key(k.account): k.closing for k in kept if k.closing} == {
            account: amount for account, amount in closings.items() if amount
        }

    @precondition(lambda self: self.shut and self.all_closed())
    @rule()
    def reopen(self):
        reopen(period=self.shut.pop(), actor=ACTOR, at=OVER, reason="")
        self.reached["reopened"] += 1

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
            row = LedgerRelease.objects.select_related("transaction").get(pk=pk)
            assert row.status == ("released" if self.affordable(legs) else "held")
            if row.status == "released":
                count -= 1
                self.apply(row.transaction, legs, self.hour)
        assert count == 0

    # what must hold after every step

    @staticmethod
    def key(account) -> Account:
        return account.owner_id, Kind(account.kind), account.currency

    def sums(self, hour, known_at=None):
        sums = Counter()
        for move in self.moves:
            if move.hour <= hour and (known_at is None or move.recorded_at <= known_at):
                sums[move.account] += move.amount
        return sums

    def agree(self, hour, known_at=None):
        sums = self.sums(hour, known_at)
        for held in balances(at=AT + timedelta(hours=hour), known_at=known_at):
            assert held.posted.minor == held.account.on_normal_side(sums[self.key(held.account)])

    @invariant()
    def every_balance_is_the_models(self):
        if not hasattr(self, "posted"):
            return
        for held in balances():
            account = self.key(held.account)
            signed = self.posted[account]
            assert held.posted.minor == held.account.on_normal_side(signed)
            if account[1] in FLOORED:
                assert held.available.minor == signed - self.held[account] >= 0

    @invariant()
    def balances_as_of_an_instant_and_as_known_at_another_are_the_models(self):
        """Two instants after each step, all of them at the end."""
        if not hasattr(self, "moves") or not self.moves:
            return
        self.steps += 1
        hour, known = INSTANTS[self.steps % len(INSTANTS)], self.moves[self.steps * 7 % len(self.moves)]
        self.agree(hour)
        self.agree(known.hour, known.recorded_at)

    def teardown(self):
        if not hasattr(self, "moves"):
            return
        try:
            assert sum(self.posted.values()) == 0
            assert {name for name in findings() if name != "overdue_releases"} == set()
            for hour in INSTANTS:
                self.agree(hour)
            for held in balances():
                self.statement_is_the_models(held)
        finally:
            database.set_rollback(True)
            self.example.__exit__(None, None, None)

    def statement_is_the_models(self, held):
        mine = [move for move in self.moves if move.account == self.key(held.account)]
        page = statement(account=held.account, limit=1000)
        assert page.closing == held.posted
        # By business time, then as recorded; what was recorded at one instant stands in any order.
        expected = sorted((move.hour, move.recorded_at, move.amount) for move in mine)
        lines = [(line.entry.effective_at, line.entry.recorded_at, line.entry.amount) for line in page.lines]
        assert sorted((AT + timedelta(hours=hour), *others) for hour, *others in expected) == sorted(lines)
        assert [line[:2] for line in lines] == sorted((line[:2] for line in lines), reverse=True)
        running = 0
        for line in reversed(page.lines):
            running += line.entry.amount
            assert line.balance.minor == held.account.on_normal_side(running)


@pytest.mark.django_db
def test_any_sequence_of_verbs_agrees_with_the_model():
    LedgerMachine.reached.clear()
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=40, stateful_step_count=25))
    # Or the agreement would say nothing about it.
    assert len(+LedgerMachine.reached) == 7, LedgerMachine.reached

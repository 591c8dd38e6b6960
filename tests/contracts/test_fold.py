"""The fold as a pure function: total, deterministic, bitemporal, and the same in any order of reading."""

import itertools
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from contracts.rules.fold import NOTHING, Edit, fold, timeline
from contracts.rules.operations.activate import Activate
from contracts.rules.operations.create import Create, Term
from contracts.rules.operations.holds import Resume, Suspend
from contracts.rules.operations.products import AddProduct, ChangeQuantity, RemoveProduct
from contracts.rules.operations.terminate import Terminate
from contracts.rules.segments import billable_segments
from contracts.rules.state import ContractState, Price

START = datetime(2027, 3, 1, tzinfo=UTC)
LINES = [UUID(int=i) for i in range(1, 4)]
SELLER = UUID(int=9)
PRICE = Price("unit", Decimal(100), "USD")


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def log(*steps: tuple[str, Any, float], recorded: dict[int, float] | None = None) -> list[Edit]:
    """A log from (operation, payload, day of effect); recorded one a day from day 100 on."""
    return [
        Edit(seq, operation, payload, day(when), day((recorded or {}).get(seq, 100 + seq)))
        for seq, (operation, payload, when) in enumerate(steps, 1)
    ]


def line(line_id: UUID, quantity: int = 2) -> AddProduct:
    return AddProduct(line_id, "h100-server", SELLER, PRICE, quantity)


CREATED = ("create", Create(UUID(int=8), "USD", START, lines=(line(LINES[0]),)), 0)
ACTIVATED = (
    CREATED,
    ("activate", Activate("submit"), 0),
    ("activate", Activate("signed"), 0),
    ("activate", Activate("live"), 0),
)


def quantity(state: ContractState, line_id: UUID = LINES[0]) -> int:
    return state.lines[line_id].quantity


def test_before_its_creation_a_contract_is_nothing() -> None:
    assert not fold(log(*ACTIVATED), valid_at=day(-1)).exists
    assert fold([], valid_at=day(0)) == NOTHING


def test_the_same_instant_is_believed_differently_before_and_after_a_back_dated_edit() -> None:
    edits = log(*ACTIVATED, ("change_quantity", ChangeQuantity(LINES[0], quantity=5), 10))
    known_before = day(104.5)
    assert quantity(fold(edits, valid_at=day(15), known_at=known_before)) == 2
    assert quantity(fold(edits, valid_at=day(15))) == 5
    assert quantity(fold(edits, valid_at=day(9))) == 2


def test_bitemporal_history_as_in_the_published_example() -> None:
    """BT-01: salary 6000, raised to 6500 from 15 February, recorded on 15 March."""
    january, february, march = day(25), day(56), day(84)
    edits = log(
        ("create", Create(UUID(int=8), "USD", START, lines=(line(LINES[0], 6000),)), 0),
        ("change_quantity", ChangeQuantity(LINES[0], quantity=6500), 46),
        recorded={1: 0, 2: 74},
    )
    believed = [
        quantity(fold(edits, valid_at=actual, known_at=record))
        for record, actual in [
            (january, january), (february, january), (march, january),
            (february, february), (march, february), (march, march),
        ]
    ]  # fmt: skip
    assert believed == [6000, 6000, 6000, 6000, 6500, 6500]


def test_edits_at_one_instant_apply_in_order_of_recording() -> None:
    edits = log(
        *ACTIVATED,
        ("change_quantity", ChangeQuantity(LINES[0], quantity=5), 10),
        ("change_quantity", ChangeQuantity(LINES[0], delta=1), 10),
    )
    assert quantity(fold(edits, valid_at=day(10))) == 6
    assert [step.at for step in timeline(edits)] == [day(0), day(10)]


def test_a_back_dated_delta_carries_until_a_later_pin_hides_it() -> None:
    edits = log(
        *ACTIVATED,
        ("change_quantity", ChangeQuantity(LINES[0], delta=1), 10),
        ("change_quantity", ChangeQuantity(LINES[0], quantity=9), 20),
        ("change_quantity", ChangeQuantity(LINES[0], delta=2), 5),
    )
    assert [quantity(fold(edits, valid_at=day(d))) for d in (4, 5, 10, 20)] == [2, 4, 5, 9]


def test_a_fixed_term_runs_out_by_the_clock_alone() -> None:
    create = replace(CREATED[1], term=Term("fixed", 1))
    edits = log(("create", create, 0), *ACTIVATED[1:])
    end = datetime(2027, 4, 1, tzinfo=UTC)
    assert fold(edits, valid_at=end - timedelta(microseconds=1)).status == "active"
    assert fold(edits, valid_at=end).status == "expired"
    assert timeline(edits)[-1].at == end
    assert timeline(edits)[-1].edits == ()


def test_holds_nest_and_each_is_lifted_by_its_own_reason() -> None:
    edits = log(
        *ACTIVATED,
        ("suspend", Suspend("non_payment"), 5),
        ("suspend", Suspend("abuse"), 6),
        ("resume", Resume("non_payment"), 7),
        ("resume", Resume("abuse"), 8),
    )
    assert [fold(edits, valid_at=day(d)).status for d in (4, 5, 6, 7, 8)] == [
        "active", "suspended", "suspended", "suspended", "active",
    ]  # fmt: skip


def test_a_hold_on_one_line_leaves_the_contract_active_and_cuts_only_that_line() -> None:
    edits = log(
        *ACTIVATED,
        ("add_product", line(LINES[1]), 0),
        ("suspend", Suspend("maintenance", (LINES[1],), "stop"), 5),
    )
    assert fold(edits, valid_at=day(6)).status == "active"
    found = billable_segments(edits, start=day(0), end=day(10))
    assert [(s.line_id, s.valid_from, s.valid_to) for s in found] == [
        (LINES[0], day(0), day(10)), (LINES[1], day(0), day(5)),
    ]  # fmt: skip


def test_suspension_cuts_segments_only_when_billing_stops() -> None:
    def spans(billing: Any) -> list[tuple[datetime, datetime]]:
        edits = log(
            *ACTIVATED, ("suspend", Suspend("buyer", "all", billing), 5), ("resume", Resume("buyer"), 8)
        )
        found = billable_segments(edits, start=day(0), end=day(31))
        return [(s.valid_from, s.valid_to) for s in found]

    assert spans("stop") == [(day(0), day(5)), (day(8), day(31))]
    assert spans("continue") == [(day(0), day(31))]


def test_an_edit_dated_inside_a_hold_starts_to_bill_at_resume() -> None:
    """ZU-03: the upgrade of 1 June is billed from the resume on 1 July."""
    edits = log(
        *ACTIVATED,
        ("suspend", Suspend("buyer", "all", "stop"), 5),
        ("change_quantity", ChangeQuantity(LINES[0], quantity=7), 6),
        ("resume", Resume("buyer"), 8),
    )
    found = billable_segments(edits, start=day(0), end=day(31))
    assert [(s.quantity, s.valid_from, s.valid_to) for s in found] == [
        (2, day(0), day(5)),
        (7, day(8), day(31)),
    ]


def test_nothing_is_billable_before_activation_or_after_termination() -> None:
    edits = log(
        CREATED, *((op, payload, 3.0) for op, payload, _ in ACTIVATED[1:]), ("terminate", Terminate(), 7)
    )
    found = billable_segments(edits, start=day(0), end=day(31))
    assert [(s.valid_from, s.valid_to) for s in found] == [(day(3), day(7))]
    assert billable_segments(log(CREATED), start=day(0), end=day(31)) == []
    assert billable_segments([], start=day(0), end=day(31)) == []


def test_a_quantity_change_splits_a_line_into_segments_that_meet() -> None:
    edits = log(*ACTIVATED, ("change_quantity", ChangeQuantity(LINES[0], quantity=3), 10))
    before, after = billable_segments(edits, start=day(0), end=day(31))
    assert (before.quantity, after.quantity) == (2, 3)
    assert before.valid_to == after.valid_from == day(10)


payloads = st.one_of(
    st.builds(lambda s: ("activate", Activate(s)), st.sampled_from(["submit", "withdraw", "signed", "live"])),
    st.builds(lambda i, q: ("add_product", line(i, q)), st.sampled_from(LINES), st.integers(1, 9)),
    st.builds(lambda i: ("remove_product", RemoveProduct(i)), st.sampled_from(LINES)),
    st.builds(
        lambda i, q: ("change_quantity", ChangeQuantity(i, quantity=q)),
        st.sampled_from(LINES),
        st.integers(0, 9),
    ),
    st.builds(
        lambda i, d: ("change_quantity", ChangeQuantity(i, delta=d)),
        st.sampled_from(LINES),
        st.integers(-9, 9),
    ),
    st.builds(
        lambda r, b: ("suspend", Suspend(r, "all", b)),
        st.sampled_from(["buyer", "abuse"]),
        st.sampled_from(["stop", "continue"]),
    ),
    st.builds(lambda r: ("resume", Resume(r)), st.sampled_from(["buyer", "abuse"])),
    st.just(("terminate", Terminate())),
)
logs = st.lists(st.tuples(payloads, st.integers(0, 40)), max_size=25).map(
    lambda steps: log(CREATED, *((op, payload, when) for (op, payload), when in steps))
)


@given(edits=logs, valid=st.integers(-5, 50), known=st.integers(95, 140), seed=st.integers(0, 9))
def test_the_fold_never_fails_and_does_not_depend_on_the_order_of_reading(
    edits: list[Edit], valid: int, known: int, seed: int
) -> None:
    state = fold(edits, valid_at=day(valid), known_at=day(known))
    shuffled = random.Random(seed).sample(edits, len(edits))
    assert fold(shuffled, valid_at=day(valid), known_at=day(known)) == state
    assert ContractState.from_json(state.to_json()) == state
    assert all(line.quantity >= 0 for line in state.lines.values())


@given(edits=logs, valid=st.integers(0, 50))
def test_the_timeline_says_at_every_instant_what_the_fold_says(edits: list[Edit], valid: int) -> None:
    reached = [step.state for step in timeline(edits) if step.at <= day(valid)]
    assert (reached[-1] if reached else NOTHING) == fold(edits, valid_at=day(valid))


@given(edits=logs, known=st.integers(100, 140))
def test_what_was_known_then_does_not_change_by_what_is_recorded_later(edits: list[Edit], known: int) -> None:
    then = [edit for edit in edits if edit.recorded_at <= day(known)]
    assert fold(edits, valid_at=day(20), known_at=day(known)) == fold(then, valid_at=day(20))


@given(edits=logs)
def test_segments_of_a_line_never_overlap_and_stay_inside_the_window(edits: list[Edit]) -> None:
    found = billable_segments(edits, start=day(2), end=day(30))
    for earlier, later in itertools.pairwise(found):
        if earlier.line_id == later.line_id:
            assert earlier.valid_to <= later.valid_from
    assert all(day(2) <= s.valid_from < s.valid_to <= day(30) for s in found)


@given(edits=logs)
def test_suspending_and_resuming_at_one_instant_changes_nothing_but_the_log(edits: list[Edit]) -> None:
    seq = len(edits)
    more = [
        *edits,
        Edit(seq + 1, "suspend", Suspend("legal", "all", "stop"), day(41), day(200)),
        Edit(seq + 2, "resume", Resume("legal"), day(41), day(201)),
    ]
    assert fold(more, valid_at=day(41)).hash == fold(edits, valid_at=day(41)).hash
    spans = {"start": day(0), "end": day(60)}
    assert billable_segments(more, **spans) == billable_segments(edits, **spans)

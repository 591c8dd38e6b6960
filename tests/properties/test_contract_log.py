"""The log of a contract under any sequence of operations: what holds whatever is recorded, in any order.

Logs grow as the product lets them grow: an edit is taken when the state it finds admits it and nothing
that lies later is broken. Only "total" is asked of logs that nobody would have admitted.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from commerce.errors import CommerceError
from contracts.rules import fold, schema
from contracts.rules.desired import lines_of
from contracts.rules.fold import Edit, Instant
from contracts.rules.operations import named
from contracts.rules.operations.correct import check_correction

START = datetime(2027, 3, 1, tzinfo=UTC)
RECORDED = datetime(2027, 1, 1, tzinfo=UTC)
END = START + timedelta(days=500)
BUYER, SELLERS = UUID(int=1), (UUID(int=2), UUID(int=3))
LINES = tuple(UUID(int=10 + n) for n in range(3))
SPARE = tuple(UUID(int=20 + n) for n in range(2))
DISCOUNTS, COMMITMENTS = (UUID(int=30), UUID(int=31)), (UUID(int=40),)
REASONS = ("buyer", "abuse")

Step = tuple[str, dict[str, Any], int]
reached: Counter[str] = Counter()


def line(line_id: UUID, seller: UUID = SELLERS[0]) -> dict[str, Any]:
    return {
        "line_id": str(line_id),
        "product": "h100-server",
        "seller_id": str(seller),
        "quantity": 2,
        "price": {"model": "unit", "rate": "18000.00", "currency": "USD"},
    }


def edit(log: Sequence[Edit], operation: str, payload: dict[str, Any], day: int) -> Edit:
    seq = len(log) + 1
    return Edit(
        seq,
        operation,
        schema.parse(named(operation).payload, payload),
        START + timedelta(days=day),
        RECORDED + timedelta(seconds=seq),
        "A test",
    )


def begun() -> list[Edit]:
    created = {
        "buyer_id": str(BUYER),
        "currency": "USD",
        "start_at": "2027-03-01T00:00:00Z",
        "term": {"kind": "fixed", "months": 12},
        "terms": {"tax": {"rate": "0.0825"}, "settlement": {"fee_rate": "0.125"}},
        "lines": [line(id_, SELLERS[n % 2]) for n, id_ in enumerate(LINES)],
    }
    log = [edit([], "create", created, 0)]
    for stage in ("submit", "signed", "live"):
        log.append(edit(log, "activate", {"stage": stage}, 0))
    return log


days = st.integers(0, 400)
lines = st.sampled_from(LINES).map(str)
reasons = st.sampled_from(REASONS)


def step(operation: str, **fields: Any) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(operation), st.fixed_dictionaries(fields), days)


of_one_line = st.one_of(
    step("change_quantity", line_id=lines, quantity=st.integers(0, 9)),
    step("change_quantity", line_id=lines, delta=st.integers(-2, 3)),
    step(
        "change_price",
        line_id=lines,
        percent=st.sampled_from(["-0.05", "-0.5"]),
        basis=st.just("renegotiation"),
    ),
)
steps = st.one_of(
    of_one_line,
    step("remove_product", line_id=lines, unused=st.sampled_from(["credit", "forfeit"])),
    st.tuples(st.just("add_product"), st.sampled_from(SPARE).map(line), days),
    step("suspend", reason=reasons, billing=st.sampled_from(["stop", "continue"])),
    step("suspend", reason=reasons, scope=st.lists(lines, min_size=1, max_size=2, unique=True)),
    step("resume", reason=reasons),
    step(
        "apply_discount",
        discount_id=st.sampled_from(DISCOUNTS).map(str),
        scope=st.just("all"),
        kind=st.just("percent"),
        percent=st.sampled_from(["0.1", "0.25"]),
        duration=st.sampled_from([{"kind": "once"}, {"kind": "forever"}]),
    ),
    step(
        "set_commitment",
        commitment_id=st.sampled_from(COMMITMENTS).map(str),
        kind=st.just("minimum_spend"),
        amount_minor=st.just(9_000_000),
        scope=st.just([str(LINES[0])]),
    ),
    step(
        "change_terms",
        payment=st.fixed_dictionaries({"net_days": st.integers(0, 60)}),
        references=st.fixed_dictionaries({"po_number": st.sampled_from(["A", "B"])}),
    ),
    st.tuples(st.just("terminate"), st.just({"cause": "mutual"}), st.integers(200, 400)),
    step("correct", target_seq=st.integers(1, 16), mode=st.sampled_from(["void", "reinstate"])),
)
holds = st.builds(
    lambda reason, day, length: [
        ("suspend", {"reason": reason, "billing": "stop"}, day),
        ("resume", {"reason": reason}, day + length),
    ],
    reasons,
    days,
    st.integers(0, 60),
)
stories = st.lists(st.one_of(steps.map(lambda one: [one]), holds), max_size=10).map(
    lambda parts: [one for part in parts for one in part]
)


def admitted(log: list[Edit], story: Sequence[Step]) -> list[Edit]:
    """The log with what of the story the product would have let in."""
    for operation, payload, day in story:
        try:
            log = take(log, operation, payload, day)
            reached[operation] += 1
        except CommerceError:
            reached["refused"] += 1
    return log


def take(log: list[Edit], operation: str, payload: dict[str, Any], day: int) -> list[Edit]:
    """The log with one edit more. CommerceError when the product would refuse it."""
    new = edit(log, operation, payload, day)
    if operation == "correct":
        check_correction(new.payload, [(one.seq, one.operation) for one in log])
        target = log[new.payload.target_seq - 1]
        new = replace(new, effective_at=target.effective_at)
    else:
        fold.check(fold.found_by(log, new), new)
    for error in fold.broken([*log, new], new.effective_at).values():
        raise error
    return [*log, new]


def states(log: Sequence[Edit]) -> list[tuple[datetime, str]]:
    """Every instant and what holds from it on; instants that change nothing left out."""
    found: list[tuple[datetime, str]] = []
    for instant in fold.timeline(log):
        if not found or found[-1][1] != instant.state.hash:
            found.append((instant.at, instant.state.hash))
    return found


def billed(instants: Sequence[Instant]) -> list[Any]:
    return lines_of(instants, start=START, end=END, usage=lambda *_: Decimal(0))


@settings(max_examples=40)
@given(story=stories, cut=st.integers(0, 18), valid=days, seed=st.integers(0, 99))
def test_the_fold_is_total_and_the_same_in_any_order_of_reading(
    story: list[Step], cut: int, valid: int, seed: int
) -> None:
    log = begun()
    for operation, payload, day in story:
        log.append(edit(log, operation, payload, day))
    known_at = RECORDED + timedelta(seconds=cut)
    read = log[:]
    random.Random(seed).shuffle(read)
    at = START + timedelta(days=valid)
    for known in (None, known_at):
        assert fold.timeline(log, known) == fold.timeline(read, known)
        state = fold.fold(log, valid_at=at, known_at=known)
        assert state == fold.at_instant(fold.timeline(log, known), at) or not state.exists
    assert fold.fold(log, valid_at=at, known_at=known_at) == fold.fold(log[:cut], valid_at=at)
    instants = fold.timeline(log)
    assert all(earlier.at < later.at for earlier, later in pairwise(instants))
    billed(instants)


@settings(max_examples=40)
@given(story=stories)
def test_what_was_admitted_stays_admitted(story: list[Step]) -> None:
    log = admitted(begun(), story)
    assert fold.broken(log, START) == {}


@settings(max_examples=40)
@given(story=stories, data=st.data())
def test_void_and_then_reinstate_is_the_identity_on_state_and_money(story: list[Step], data: Any) -> None:
    log = admitted(begun(), story)
    voided = {one.payload.target_seq for one in log if one.operation == "correct"}
    open_ = [one.seq for one in log[1:] if one.operation != "correct" and one.seq not in voided]
    target = {"target_seq": data.draw(st.sampled_from(open_))}
    try:
        without = take(log, "correct", target | {"mode": "void"}, 0)
    except CommerceError:
        assume(False)
    again = take(without, "correct", target | {"mode": "reinstate"}, 0)
    assert states(again) == states(log)
    assert billed(fold.timeline(again)) == billed(fold.timeline(log))


@settings(max_examples=40)
@given(story=stories, day=days, reason=reasons)
def test_to_suspend_and_resume_at_one_instant_changes_nothing(
    story: list[Step], day: int, reason: str
) -> None:
    log = admitted(begun(), story)
    try:
        held = take(log, "suspend", {"reason": reason, "billing": "stop"}, day)
        lifted = take(held, "resume", {"reason": reason}, day)
    except CommerceError:
        assume(False)
    assert states(lifted) == states(log)
    assert billed(fold.timeline(lifted)) == billed(fold.timeline(log))


@settings(max_examples=40)
@given(story=stories, one=of_one_line, other=of_one_line)
def test_edits_of_two_lines_may_be_recorded_in_either_order(
    story: list[Step], one: Step, other: Step
) -> None:
    assume(one[1]["line_id"] != other[1]["line_id"])
    log = admitted(begun(), story)
    try:
        first = take(take(log, *one), *other)
        second = take(take(log, *other), *one)
    except CommerceError:
        assume(False)
    assert states(first) == states(second)
    assert billed(fold.timeline(first)) == billed(fold.timeline(second))


@settings(max_examples=40)
@given(story=stories)
def test_what_is_retained_and_what_is_credited_is_what_was_posted(story: list[Step]) -> None:
    """Posted edit by edit as the difference, each line ends at what the whole log says it should be."""
    log = begun()
    posted: Counter[Any] = Counter()

    def post(after: list[Edit]) -> None:
        want: Counter[Any] = Counter()
        for one in billed(fold.timeline(after)):
            want[one.owed] += one.net_minor
        for owed in {*want, *posted}:
            posted[owed] += want[owed] - posted[owed]

    post(log)
    for operation, payload, day in story:
        try:
            log = take(log, operation, payload, day)
        except CommerceError:
            continue
        post(log)
    assert sum(posted.values()) == sum(one.net_minor for one in billed(fold.timeline(log)))


def test_the_stories_reach_every_operation_they_tell_of() -> None:
    """Or the agreement above would say nothing about it."""
    wanted = {
        "change_quantity", "change_price", "remove_product", "add_product", "suspend", "resume",
        "apply_discount", "set_commitment", "change_terms", "terminate", "correct", "refused",
    }  # fmt: skip

    @settings(max_examples=200)
    @given(story=stories)
    def tell(story: list[Step]) -> None:
        admitted(begun(), story)

    reached.clear()
    tell()
    assert wanted <= reached.keys(), wanted - reached.keys()

"""What holds for every operation on every state: apply is total, pure, and writes what can be read again."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commerce.errors import CommerceError
from contracts.rules import fold, schema
from contracts.rules.fold import Edit
from contracts.rules.operations import named
from contracts.rules.state import ContractState
from tests.contracts.operating import ACTIVE
from tests.contracts.payloads import EPOCH, INSTANTS, edits

STEPS = st.lists(st.tuples(edits(), INSTANTS), min_size=1, max_size=8)
RUNNING = tuple(
    name
    for name in ("add_product", "remove_product", "change_quantity", "change_price", "apply_discount",
                 "set_commitment", "attach_financing", "suspend", "resume", "renew", "terminate")
)  # fmt: skip
SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


def applied(state: ContractState, steps: list[tuple[tuple[str, Any], datetime]]) -> list[ContractState]:
    states = [state]
    for (name, payload), at in steps:
        states.append(named(name).apply(states[-1], payload, at))
    return states


@SLOW
@given(steps=STEPS, status=st.sampled_from(["none", "draft", "pending_activation", "active", "suspended"]))
def test_apply_never_raises_and_its_state_is_read_back_as_it_was_written(steps: Any, status: str) -> None:
    begun = ContractState() if status == "none" else replace(ACTIVE, status=status)
    for state in applied(begun, steps):
        assert ContractState.from_json(state.to_json()) == state
        assert all(line.quantity >= 0 for line in state.lines.values())
        assert not {line.line_id for line in state.lines.values()} ^ set(state.lines)


@SLOW
@given(step=st.tuples(edits(), INSTANTS))
def test_a_payload_is_stored_and_read_back_as_it_was(step: Any) -> None:
    (name, payload), _ = step
    assert schema.load(named(name).payload, schema.dump(payload)) == payload


@SLOW
@given(steps=st.lists(st.tuples(edits(RUNNING), INSTANTS), max_size=8))
def test_what_check_admits_changes_the_state_and_what_it_refuses_says_where(steps: Any) -> None:
    state, refusals = ACTIVE, []
    for (name, payload), at in steps:
        op = named(name)
        if state.status not in op.allowed(payload):
            continue
        try:
            op.check(state, payload, at)
        except CommerceError as error:
            refusals.append(error)
            continue
        assert isinstance(op.needs_approval(state, payload, at), str)
        state = op.apply(state, payload, at)
    for error in refusals:
        assert error.code != type(error).code, error
        assert error.errors, error
        assert all(fault.pointer.startswith("/") for fault in error.errors), error


@SLOW
@given(steps=STEPS)
def test_a_log_of_anything_folds_to_one_timeline(steps: Any) -> None:
    log = [
        Edit(seq, name, payload, at, EPOCH + timedelta(days=seq))
        for seq, ((name, payload), at) in enumerate(steps, 1)
        if name != "correct"
    ]
    instants = fold.timeline(log)
    for step in instants:
        assert fold.fold(log, valid_at=step.at) == fold.at_instant(instants, step.at)

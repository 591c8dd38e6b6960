"""What a correction of a contract's creation may say instead, and what it may never take back."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from commerce.errors import InvalidInput
from contracts.rules import schema
from contracts.rules.operations import named
from contracts.rules.operations.correct import Correct, check_replacement
from contracts.rules.operations.create import Create

OTHER = UUID(int=99)


@pytest.fixture
def agreed(payload: dict[str, Any]) -> Create:
    return replace(schema.parse(Create, payload), number="C-2027-0001")


def faults(old: Create, new: Create, *, signed: bool) -> set[tuple[str, str]]:
    try:
        check_replacement("create", old, new, signed=signed)
    except InvalidInput as error:
        return {(fault.code, fault.pointer) for fault in error.errors}
    return set()


@pytest.mark.parametrize("signed", [False, True])
def test_a_contract_keeps_its_number_and_its_currency(agreed: Create, signed: bool) -> None:
    other = replace(agreed, number="C-2027-0002", currency="EUR")
    assert faults(agreed, other, signed=signed) == {
        ("number_fixed", "/number"),
        ("currency_fixed", "/currency"),
    }
    assert faults(agreed, replace(agreed, quote_ref="Q-7"), signed=signed) == set()


def test_a_line_that_was_signed_is_removed_and_not_forgotten(agreed: Create) -> None:
    first, *rest = agreed.lines
    renamed = replace(agreed, lines=(replace(first, line_id=OTHER), *rest))
    for fewer in (renamed, replace(agreed, lines=tuple(rest))):
        assert faults(agreed, fewer, signed=True) == {("line_dropped", "/lines")}
        assert faults(agreed, fewer, signed=False) == set()
    more = replace(agreed, lines=(*agreed.lines, replace(first, line_id=OTHER)))
    assert faults(agreed, more, signed=True) == set()


def test_what_other_operations_say_instead_is_theirs_to_judge() -> None:
    resume = named("resume").payload
    check_replacement("resume", resume(reason="buyer"), resume(reason="legal"), signed=True)


def test_a_correction_does_not_say_what_becomes_of_the_money() -> None:
    """A difference is always posted: nothing ever read the choice."""
    with pytest.raises(InvalidInput) as refused:
        schema.parse(Correct, {"target_seq": 2, "mode": "void", "money": "none_with_reason"})
    assert [(fault.code, fault.pointer) for fault in refused.value.errors] == [("unknown_field", "/money")]

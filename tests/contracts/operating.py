"""A small contract for the tests of single operations, and what an operation refuses or makes of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from commerce.errors import CommerceError
from contracts.rules import schema
from contracts.rules.operations import check_allowed, named
from contracts.rules.state import ContractState, LineState, Price

START = datetime(2027, 3, 1, tzinfo=UTC)
NOW = datetime(2027, 6, 10, tzinfo=UTC)
BUYER, SELLER = UUID(int=8), UUID(int=9)
SERVERS, HOURS = UUID(int=1), UUID(int=2)
RATE = Decimal("18000.00")

LINES = {
    SERVERS: LineState(SERVERS, "h100-server", "recurring", "server_month", "", SELLER, 2,
                       Price("unit", RATE, "USD"), added_at=START),
    HOURS: LineState(HOURS, "h100-burst", "usage", "device_hour", "h100", SELLER, 1,
                     Price("unit", Decimal("2.00"), "USD"), added_at=START),
}  # fmt: skip
ACTIVE = ContractState(
    status="active",
    buyer_id=BUYER,
    currency="USD",
    start_at=START,
    term_start_at=START,
    term_months=12,
    end_at=datetime(2028, 3, 1, tzinfo=UTC),
    live_at=START,
    lines=LINES,
)
DRAFT = replace(ACTIVE, status="draft", live_at=None)
SIGNED = replace(ACTIVE, status="pending_activation", live_at=None)


def days(count: float) -> timedelta:
    return timedelta(days=count)


def parsed(operation: str, payload: dict[str, Any]) -> Any:
    return schema.parse(named(operation).payload, payload)


def refusal(
    state: ContractState, operation: str, payload: dict[str, Any], at: datetime = NOW
) -> tuple[str, str]:
    """(code, pointer) of the one fault for which the operation is refused on `state`."""
    with pytest.raises(CommerceError) as raised:
        admit(state, operation, payload, at)
    faults = {(fault.code, fault.pointer) for fault in raised.value.errors}
    assert len(faults) == 1, faults
    return faults.pop()


def admit(state: ContractState, operation: str, payload: dict[str, Any], at: datetime = NOW) -> ContractState:
    """The state after an operation that is not refused; what it fixes of its instant is up to the caller."""
    op, value = named(operation), parsed(operation, payload)
    check_allowed(op, state, value, at)
    op.check(state, value, at)
    after = op.apply(state, value, at)
    assert ContractState.from_json(after.to_json()) == after
    return after


def approval(state: ContractState, operation: str, payload: dict[str, Any], at: datetime = NOW) -> str:
    return named(operation).needs_approval(state, parsed(operation, payload), at)


def instant(state: ContractState, operation: str, payload: dict[str, Any], at: datetime = NOW) -> Any:
    """The instant that the payload itself fixes."""
    return named(operation).effective_at(parsed(operation, payload), state, at)

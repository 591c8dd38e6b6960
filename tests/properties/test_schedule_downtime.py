"""Whenever the tick runs and however long it does not: a contract's log, events and states are the same."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commerce.errors import CommerceError
from contracts import services
from contracts.models import Contract
from contracts.rules import fold
from tests.contracts.conftest import edit, parties, payload  # noqa: F401  (fixtures)
from tests.contracts.scheduling import day, events_of, log_of, renewing, tick

BEGIN, DAYS = day("2027-01-31"), 100
AHEAD = st.integers(1, DAYS - 1)
# Recorded on the first day for a day ahead: a suspension with its end, another quantity, opting out.
PLANS = st.lists(
    st.one_of(
        st.tuples(st.just("suspend"), AHEAD, st.integers(1, 45)),
        st.tuples(st.just("change_quantity"), AHEAD, st.integers(3, 9)),
        st.tuples(st.just("opt_out"), AHEAD, st.just(0)),
    ),
    max_size=3,
    unique_by=lambda plan: plan[0],
)
# Recorded by somebody on a day, whether or not the clock has ticked since: another quantity, leaving.
EDITS = st.dictionaries(
    st.integers(0, DAYS), st.one_of(st.integers(3, 9), st.just("terminate"), st.just("opt_out")), max_size=2
)


@pytest.mark.django_db
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    up=st.sets(st.integers(0, DAYS), max_size=12),
    start=st.integers(0, 4),
    months=st.integers(1, 3),
    uplift=st.booleans(),
    plans=PLANS,
    edits=EDITS,
)
def test_downtime_leaves_the_log_the_events_and_every_state_as_if_there_had_been_none(
    payload: dict[str, Any],  # noqa: F811
    up: set[int],
    start: int,
    months: int,
    uplift: bool,
    plans: list[tuple[str, int, int]],
    edits: dict[int, int | str],
) -> None:
    renewal = {"uplift": {"kind": "percent", "value": "0.035", "cap": "0.05"}} if uplift else {}
    steadily = range(DAYS + 1)
    with transaction.atomic():
        found = []
        for ticks in (steadily, sorted(up | {DAYS})):
            begin = BEGIN - timedelta(days=start)
            contract = renewing(payload, f"{begin:%Y-%m-%d}", months=months, renewal=renewal)
            for plan in plans:
                _record(contract, payload["lines"][0]["line_id"], *plan)
            for offset in sorted({*ticks, *edits}):
                while offset in ticks and tick(BEGIN + timedelta(days=offset)):
                    pass
                if offset in edits:
                    _edit(contract, payload["lines"][0]["line_id"], offset, edits[offset])
            contract.refresh_from_db()
            found.append(contract)
        steady, patchy = found
        assert _plain(patchy) == _plain(steady)
        assert (patchy.status, patchy.state_hash) == (steady.status, steady.state_hash)
        first, second = (fold.timeline(services.contract_edits(contract.pk)) for contract in found)
        assert [(step.at, step.state) for step in first] == [(step.at, step.state) for step in second]
        transaction.set_rollback(True)


def _record(contract: Contract, line_id: str, what: str, ahead: int, value: int) -> None:
    at = BEGIN + timedelta(days=ahead)
    payloads = {
        "suspend": {"reason": "buyer", "resume_at": f"{at + timedelta(days=value):%Y-%m-%dT00:00:00Z}"},
        "change_quantity": {"line_id": line_id, "quantity": value},
        "opt_out": {"renewal": {"auto": False}},
    }
    operation = "change_terms" if what == "opt_out" else what
    with suppress(CommerceError):  # what an earlier plan rules out is ruled out for both
        edit(contract, operation, payloads[what], at=BEGIN, effective_at=at)


def _edit(contract: Contract, line_id: str, offset: int, what: int | str) -> None:
    operation, body = {
        "terminate": ("terminate", {"cause": "mutual"}),
        "opt_out": ("change_terms", {"renewal": {"auto": False}}),
    }.get(str(what), ("change_quantity", {"line_id": line_id, "quantity": what}))
    with suppress(CommerceError):  # what is refused is refused for both
        edit(contract, operation, body, at=BEGIN + timedelta(days=offset), reason="Agreed")


def _plain(contract: Contract) -> str:
    text = str([log_of(contract), events_of(contract)])
    return text.replace(str(contract.pk), "ID").replace(contract.number, "NUMBER")

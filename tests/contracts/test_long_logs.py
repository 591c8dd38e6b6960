"""A long log of many lines is read within a moment: by its parties, for its bills, and page by page."""

import time
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.services.usage import Reading, accept_usage, meter, metered
from contracts.models import Contract
from contracts.rules import fold
from contracts.rules.fold import Edit
from contracts.rules.visibility import Parts, seen_by, seen_edits
from contracts.services import desired
from contracts.services.admission import plan
from tests.contracts.conftest import MARCH, OPERATOR, Parties, create, edit
from tests.contracts.operating import BUYER, SELLER, START, parsed
from tests.contracts.test_doors import Api
from tests.contracts.test_stored_payloads import log as one_of_each

DAY = timedelta(days=1)


def long_log(*, lines: int, edits: int) -> list[Edit]:
    ids = [str(UUID(int=1000 + n)) for n in range(lines)]
    price = {"model": "unit", "rate": "18000"}
    terms = [{"line_id": id_, "product": "h100", "seller_id": str(SELLER), "price": price} for id_ in ids]
    opened = {"buyer_id": str(BUYER), "currency": "USD", "start_at": START.isoformat(), "lines": terms}
    asked = [("create", opened), *(("activate", {"stage": stage}) for stage in ("submit", "signed", "live"))]
    asked += [("change_quantity", {"line_id": ids[n % lines], "delta": 1}) for n in range(edits)]
    return [
        Edit(seq, name, parsed(name, payload), START + timedelta(minutes=seq), START + timedelta(minutes=seq))
        for seq, (name, payload) in enumerate(asked, 1)
    ]


def test_a_party_reads_a_long_log_in_a_moment() -> None:
    log = long_log(lines=100, edits=400)
    begun = time.process_time()
    seen = seen_edits(log, SELLER)
    assert time.process_time() - begun < 1.5  # with every state written whole, five
    assert len(seen) == len(log)


def test_states_that_share_their_parts_are_written_as_each_would_be_alone() -> None:
    parts = Parts()
    for step in fold.timeline(one_of_each()):
        assert parts.of(step.state) == step.state.to_json()


def test_several_parties_at_once_see_what_each_sees_alone() -> None:
    log = one_of_each()
    states = [step.state for step in fold.timeline(log)]
    parties = {state.buyer_id for state in states} | {one for state in states for one in state.seller_ids}
    together = seen_by(log, parties)
    assert together == {party: seen_edits(log, party) for party in parties}
    assert len(parties) > 1
    assert all(together.values())


@pytest.fixture
def metering(payload: dict[str, Any], clock: Any) -> Contract:
    """Six metered lines for a year, of which each was used twice a day in the first weeks."""
    hours = payload["lines"][1]
    payload["lines"] = [payload["lines"][0], *({**hours, "line_id": str(uuid4())} for _ in range(6))]
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        contract = edit(contract, "activate", {"stage": stage}).contract
    lines = [UUID(line["line_id"]) for line in payload["lines"][1:]]
    now = MARCH + 80 * DAY
    clock(now)
    readings = [
        Reading(f"{line}-{half}", "meter", line, MARCH + half * DAY / 2, Decimal(n + 1) + Decimal("0.125"))
        for n, line in enumerate(lines)
        for half in range(100)
    ]
    accept_usage(contract_id=contract.pk, readings=readings, actor=OPERATOR, at=now)
    return contract


@pytest.mark.django_db
def test_what_was_used_is_read_once_however_many_lines_and_periods(metering: Contract) -> None:
    end = MARCH.replace(year=2028)
    with CaptureQueriesContext(connection) as asked:
        lines = desired(metering.pk, start=MARCH, end=end, at=MARCH + 80 * DAY)
    assert sum("usageevent" in one["sql"] for one in asked) == 1
    used = [line for line in lines if line.kind == "usage"]
    assert sum(line.quantity for line in used) == Decimal("21.75") * 100
    for line in used:
        assert line.quantity == metered(metering.pk, line.source_id, line.start, line.end)


@pytest.mark.django_db
def test_a_stretch_between_two_marks_is_what_was_accepted_in_it_and_any_other_is_asked_for(
    metering: Contract,
) -> None:
    [line, *_] = [one.line_id for one in metering.current.live_lines if one.kind == "usage"]
    marks = [MARCH + n * DAY for n in (3, 10, 11, 40)]
    usage = meter(metering.pk, [line], marks)
    every = [(start, end) for start in marks for end in marks if start < end]
    off_marks = [(marks[0] + DAY / 3, marks[1]), (MARCH, MARCH + 365 * DAY), (marks[1], marks[1])]
    for start, end in (*every, *off_marks):
        assert usage(line, start, end) == metered(metering.pk, line, start, end)
    assert usage(uuid4(), marks[0], marks[1]) == 0
    assert meter(metering.pk, [], [])(line, *marks[:2]) == metered(metering.pk, line, *marks[:2])


@pytest.mark.django_db
def test_a_contract_without_meters_asks_for_no_usage(active: Contract, servers: UUID) -> None:
    with CaptureQueriesContext(connection) as asked:
        meter(active.pk, [servers], [MARCH, MARCH + DAY])
    assert len(asked) == 0


@pytest.mark.django_db
def test_a_timeline_is_read_page_by_page_without_gap_or_repetition(
    active: Contract, servers: UUID, parties: Parties, clock: Any
) -> None:
    clock(MARCH + DAY)
    for day in range(2, 9):
        edit(active, "change_quantity", {"line_id": str(servers), "delta": 1}, effective_at=MARCH + day * DAY)
    for party in (parties.buyer, parties.seller):
        api = Api(party)
        whole = api.get(f"contracts/{active.pk}/timeline/").json()
        assert whole["next"] is None
        path, walked = f"contracts/{active.pk}/timeline/?page_size=3", []
        for _ in range(10):
            page = api.get(path).json()
            assert 0 < len(page["items"]) <= 3
            walked += page["items"]
            if page["next"] is None:
                break
            path = page["next"].split("/api/v1/")[1]
        assert walked == whole["items"]
        assert len(walked) > 6
    assert Api(parties.buyer).get(f"contracts/{active.pk}/timeline/?page_size=201").status_code == 400
    last = whole["items"][-1]["at"]
    assert Api(parties.buyer).get(f"contracts/{active.pk}/timeline/?after={last}").json()["items"] == []


@pytest.mark.django_db
def test_a_correction_of_a_long_log_is_judged_in_a_moment(parties: Parties) -> None:
    log = long_log(lines=100, edits=300)
    begun = time.process_time()
    planned = plan(
        log, "correct", {"target_seq": 8, "mode": "void"}, given=None, reason="typo", actor=OPERATOR,
        at=START + DAY, current=fold.fold(log, valid_at=START + DAY),
    )  # fmt: skip
    spent = time.process_time() - begun
    assert planned.after != planned.before
    assert spent < 1  # with every state hashed twice, two

"""Recording service events: placing, once, corrections, the contract's own facts, roll-up, the clock."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commerce.actor import Actor
from commerce.errors import InvalidInput, StateConflict
from commerce.ids import uuid7
from commerce.invariants import REGISTRY
from commerce.outbox import drain
from commerce.outbox.models import OutboxEvent
from contracts import services
from contracts.models import Contract, ServiceEvent, UnitStatus
from contracts.services import ServiceReport
from tests.contracts.conftest import MARCH, OPERATOR, Parties, edit

pytestmark = pytest.mark.django_db

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NOON = MARCH + 12 * HOUR
_ids = count(1)


def report(state: str, at: datetime, unit: str = "u-1", **more: Any) -> ServiceReport:
    given: dict[str, Any] = {"source": "dcim", "source_event_id": f"e-{next(_ids)}", **more}
    return ServiceReport(unit_id=unit, state=state, at=at, **given)


def record(*events: ServiceReport, at: datetime = NOON, actor: Actor = OPERATOR) -> services.Recorded:
    return services.record_service_events(events=events, actor=actor, at=at)


def follow(contract: Contract, at: datetime = NOON) -> None:
    services.follow_contract(contract_id=contract.pk, actor=OPERATOR, at=at)


def state_of(unit: str = "u-1") -> str:
    return UnitStatus.objects.get(unit_id=unit).state


def key_of(organization: Any) -> Actor:
    return Actor(
        "api_key", "k", organization_id=organization.pk,
        permissions=frozenset({"contracts.record_serviceevent"}),
    )  # fmt: skip


def changes() -> list[dict[str, Any]]:
    events = OutboxEvent.objects.filter(type="service.status_changed").order_by("id")
    return [event.payload for event in events]


def faults(*events: ServiceReport, actor: Actor = OPERATOR, at: datetime = NOON) -> list[tuple[str, str]]:
    """Pointer and code of every fault; and nothing was written."""
    before = ServiceEvent.objects.count(), UnitStatus.objects.count(), OutboxEvent.objects.count()
    with pytest.raises(InvalidInput) as refused:
        record(*events, actor=actor, at=at)
    assert (ServiceEvent.objects.count(), UnitStatus.objects.count(), OutboxEvent.objects.count()) == before
    return [(fault.pointer, fault.code) for fault in refused.value.errors]


@pytest.fixture
def named(draft: Contract, payload: dict[str, Any], parties: Parties) -> Contract:
    """A signed contract whose first line names its two units."""
    line = {**payload["lines"][0], "line_id": str(uuid7()), "unit_ids": ["u-1", "u-2"]}
    edit(draft, "remove_product", {"line_id": payload["lines"][0]["line_id"]})
    edit(draft, "add_product", line)
    payload["named"] = line["line_id"]
    for stage in ("submit", "signed"):
        draft = edit(draft, "activate", {"stage": stage}).contract
    follow(draft, MARCH)
    return draft


@pytest.fixture
def line(named: Contract, payload: dict[str, Any]) -> UUID:
    return UUID(payload["named"])


# What the contract says


def test_a_signed_contracts_units_have_not_started(named: Contract, line: UUID) -> None:
    rows = UnitStatus.objects.filter(contract=named)
    assert {(row.unit_id, row.line_id, row.state) for row in rows} == {
        ("u-1", line, "not_started"), ("u-2", line, "not_started"),
    }  # fmt: skip
    follow(named)
    assert ServiceEvent.objects.filter(source="contract").count() == 2


def test_a_draft_says_nothing_of_its_units(draft: Contract, payload: dict[str, Any]) -> None:
    follow(draft)
    assert not UnitStatus.objects.exists()
    assert not ServiceEvent.objects.exists()


def test_a_hold_that_blocks_access_blocks_every_unit_and_its_end_restores_what_they_did(
    named: Contract, line: UUID
) -> None:
    live = edit(named, "activate", {"stage": "live"}).contract
    record(report("in_service", MARCH), report("in_service", MARCH, "u-2"))
    edit(live, "suspend", {"reason": "abuse"}, at=NOON)
    follow(live, NOON)
    assert {state_of("u-1"), state_of("u-2")} == {"access_blocked"}
    record(report("down", NOON + MINUTE), at=NOON + HOUR)
    assert state_of() == "access_blocked"
    edit(live, "resume", {"reason": "abuse"}, at=NOON + 2 * HOUR)
    follow(live, NOON + 2 * HOUR)
    assert (state_of("u-1"), state_of("u-2")) == ("down", "in_service")


def test_a_hold_that_keeps_access_blocks_nothing(named: Contract) -> None:
    live = edit(named, "activate", {"stage": "live"}).contract
    record(report("in_service", MARCH))
    edit(live, "suspend", {"reason": "buyer", "access": "keep"}, at=NOON)
    follow(live)
    assert state_of() == "in_service"


def test_a_contracts_end_deprovisions_and_voiding_it_takes_that_back(named: Contract) -> None:
    live = edit(named, "activate", {"stage": "live"}).contract
    record(report("in_service", MARCH))
    ended = edit(live, "terminate", {"cause": "mutual"}, at=NOON, reason="Over")
    follow(live, NOON)
    assert state_of() == "deprovisioning"
    correction = {"target_seq": ended.edit.seq, "mode": "void"}
    edit(live, "correct", correction, at=NOON + HOUR, reason="It was not")
    follow(live, NOON + HOUR)
    assert state_of() == "in_service"
    edit(live, "correct", {**correction, "mode": "reinstate"}, at=NOON + 2 * HOUR, reason="It was")
    follow(live, NOON + 2 * HOUR)
    assert state_of() == "deprovisioning"
    facts = ServiceEvent.objects.filter(unit_id="u-1", source="contract", corrects=None)
    assert sorted(facts.values_list("state", flat=True)) == ["deprovisioning", "not_started"]


def test_contract_events_lead_to_the_units(named: Contract, clock: Any) -> None:
    live = edit(named, "activate", {"stage": "live"}).contract
    record(report("in_service", MARCH))
    edit(live, "suspend", {"reason": "legal"})
    drain(groups=["contracts.service"])
    assert state_of() == "access_blocked"
    edit(live, "resume", {"reason": "legal"})
    drain(groups=["contracts.service"])
    assert state_of() == "in_service"


def test_what_takes_effect_later_is_said_when_it_does(named: Contract, line: UUID) -> None:
    live = edit(named, "activate", {"stage": "live"}).contract
    record(report("in_service", MARCH))
    edit(live, "remove_product", {"line_id": str(line)}, effective_at=NOON)
    follow(live, MARCH)
    assert state_of() == "in_service"
    follow(live, NOON)
    assert state_of() == "deprovisioning"


# Reports


def test_a_report_on_a_known_unit_finds_its_line(named: Contract, line: UUID) -> None:
    found = record(report("provisioning", MARCH), report("in_service", MARCH + HOUR))
    assert (found.duplicates, found.flagged) == ([], [])
    event = ServiceEvent.objects.get(state="in_service")
    assert (event.contract_id, event.line_id, event.received_at) == (named.pk, line, NOON)
    row = UnitStatus.objects.get(unit_id="u-1")
    assert (row.state, row.since, row.irregular) == ("in_service", MARCH + HOUR, 0)


def test_the_same_report_twice_is_one(named: Contract) -> None:
    one = report("provisioning", MARCH)
    record(one)
    again = record(one, report("in_service", MARCH + HOUR), one)
    assert (len(again.events), again.duplicates) == (1, [0, 2])
    assert ServiceEvent.objects.filter(source="dcim").count() == 2
    assert record(one).events == []


def test_an_id_is_not_used_for_something_else(named: Contract) -> None:
    record(report("provisioning", MARCH, source_event_id="x"))
    other = report("in_service", MARCH, source_event_id="x")
    assert faults(report("down", NOON), other) == [("/events/1/id", "event_id_reused")]
    twice = report("down", NOON, source_event_id="y"), report("in_service", NOON, source_event_id="y")
    assert faults(*twice) == [("/events/1/id", "event_id_reused")]
    assert record(report("in_service", MARCH, "u-2", source_event_id="x")).events


def test_a_surprising_report_counts_and_is_flagged_and_a_late_one_explains_it(named: Contract) -> None:
    found = record(report("in_service", MARCH + 2 * HOUR), report("in_service", MARCH, "u-2"))
    assert found.flagged == [0, 1]
    assert UnitStatus.objects.get(unit_id="u-1").irregular == 1
    late = record(report("provisioning", MARCH + HOUR))
    assert late.flagged == []
    assert UnitStatus.objects.get(unit_id="u-1").irregular == 0
    assert state_of() == "in_service"


def test_a_unit_that_the_contract_does_not_name_is_placed_by_its_first_report(
    active: Contract, servers: UUID
) -> None:
    follow(active)
    assert faults(report("in_service", MARCH, "x-1")) == [("/events/0/unit_id", "unit_unknown")]
    where = {"contract_id": active.pk, "line_id": servers}
    record(report("provisioning", MARCH, "x-1"), report("in_service", MARCH + HOUR, "x-1", **where))
    record(report("down", NOON, "x-1"))
    assert state_of("x-1") == "down"
    assert ServiceEvent.objects.filter(unit_id="x-1", source="contract").get().state == "not_started"
    edit(active, "terminate", {"cause": "mutual"}, at=NOON, reason="Over")
    follow(active)
    assert state_of("x-1") == "deprovisioning"


def test_a_unit_first_reported_under_a_hold_is_blocked(active: Contract, servers: UUID) -> None:
    edit(active, "suspend", {"reason": "legal"}, at=MARCH)
    follow(active)
    record(report("in_service", MARCH, "x-1", contract_id=active.pk, line_id=servers))
    assert state_of("x-1") == "access_blocked"


def test_what_cannot_be_placed_is_named_and_nothing_is_written(
    named: Contract, line: UUID, payload: dict[str, Any]
) -> None:
    here = {"contract_id": named.pk, "line_id": line}
    assert faults(
        report("down", NOON, "nowhere"),
        report("down", NOON, **{**here, "contract_id": uuid4()}),
        report("down", NOON, **{**here, "line_id": uuid4()}),
        report("down", NOON, "u-3", **here),
        report("down", NOON),
    ) == [
        ("/events/0/unit_id", "unit_unknown"),
        ("/events/1/contract_id", "contract_not_found"),
        ("/events/2/line_id", "line_not_found"),
        ("/events/3/unit_id", "unit_not_in_line"),
    ]


@pytest.mark.parametrize(
    ("event", "pointer", "code"),
    [
        (report("flying", NOON), "state", "invalid_choice"),
        (report("void", NOON), "corrects", "required"),
        (report("down", NOON + 6 * MINUTE), "at", "at_out_of_range"),
        (report("maintenance", NOON + timedelta(days=367)), "at", "at_out_of_range"),
        (report("down", MARCH.replace(year=1999)), "at", "at_out_of_range"),
        (report("down", NOON.replace(tzinfo=None)), "at", "invalid_instant"),
        (report("down", NOON, source="contract"), "source", "source_reserved"),
        (report("down", NOON, source=""), "source", "invalid_format"),
        (report("down", NOON, "u\n1"), "unit_id", "invalid_format"),
        (report("down", NOON, source_event_id="x" * 201), "id", "invalid_format"),
        (report("down", NOON, line_id=uuid4()), "contract_id", "required"),
        (report("down", NOON, contract_id=uuid4()), "line_id", "required"),
        (report("down", NOON, detail={"log": "x" * 4000}), "detail", "detail_too_large"),
        (report("down", NOON, corrects="nothing"), "corrects", "corrected_not_found"),
    ],
)
def test_a_malformed_report_is_refused_by_field_and_rule(
    named: Contract, event: ServiceReport, pointer: str, code: str
) -> None:
    assert faults(event) == [(f"/events/0/{pointer}", code)]


def test_a_batch_has_one_to_a_thousand_reports(named: Contract) -> None:
    for events in ([], [report("down", NOON)] * 1001):
        with pytest.raises(InvalidInput, match="1 to 1000") as refused:
            record(*events)
        assert refused.value.code == "limit_exceeded"
    assert not ServiceEvent.objects.filter(source="dcim").exists()


def test_a_contract_that_nobody_signed_has_no_service(draft: Contract, servers: UUID) -> None:
    event = report("in_service", MARCH, contract_id=draft.pk, line_id=servers)
    assert faults(event) == [("/events/0/contract_id", "contract_not_signed")]


def test_a_thousand_reports_take_as_many_queries_as_two(
    active: Contract, servers: UUID, django_assert_max_num_queries: Any
) -> None:
    def told_of(*units: str) -> list[ServiceReport]:
        here = {"contract_id": active.pk, "line_id": servers}
        states = ("provisioning", "in_service")
        return [report(s, MARCH + HOUR, unit, **here) for unit in units for s in states]

    with CaptureQueriesContext(connection) as two:
        record(*told_of("x-a"))
    pages_of_inserts = 2
    with django_assert_max_num_queries(len(two) + pages_of_inserts):
        record(*told_of(*(f"x-{i:03}" for i in range(500))))
    assert UnitStatus.objects.filter(state="in_service").count() == 501
    assert len(changes()) == 2


# Corrections


def test_a_correction_changes_what_was_and_the_log_keeps_both(named: Contract) -> None:
    record(report("in_service", MARCH), report("down", NOON, source_event_id="d"))
    known = ServiceEvent.objects.latest("recorded_at").recorded_at
    record(report("degraded", NOON - HOUR, corrects="d"), at=NOON + HOUR)
    row = UnitStatus.objects.get(unit_id="u-1")
    assert (row.state, row.since) == ("degraded", NOON - HOUR)
    then = services.service_at(named.pk, valid_at=NOON, known_at=known)
    now = services.service_at(named.pk, valid_at=NOON)
    assert [view.units[0].state for view in (*then.values(), *now.values())] == ["down", "degraded"]


def test_a_report_and_its_correction_come_in_one_batch(named: Contract) -> None:
    down = report("down", NOON, source_event_id="d")
    found = record(report("void", NOON, corrects="d"), report("in_service", MARCH), down)
    assert (len(found.events), found.duplicates) == (3, [])
    assert state_of() == "in_service"
    assert record(report("void", NOON, corrects="d"), down).duplicates == [1]


def test_what_is_not_a_report_is_not_corrected(named: Contract) -> None:
    record(report("down", NOON, source_event_id="d"))
    record(report("void", NOON, corrects="d", source_event_id="c"))
    assert faults(report("void", NOON, corrects="c")) == [("/events/0/corrects", "corrected_is_correction")]
    fact = ServiceEvent.objects.get(unit_id="u-1", source="contract")
    of_contract = report("void", NOON, corrects=fact.source_event_id, corrects_source="contract")
    assert faults(of_contract) == [("/events/0/corrects", "said_by_the_contract")]


def test_the_database_refuses_what_the_service_would_not_write(named: Contract, line: UUID) -> None:
    record(report("down", NOON, source_event_id="d"), report("down", NOON, "u-2"))
    target = ServiceEvent.objects.get(source_event_id="d")

    def row(**given: Any) -> ServiceEvent:
        return ServiceEvent(
            **{
                "contract": named, "line_id": line, "unit_id": "u-1", "at": NOON, "received_at": NOON,
                "recorded_at": NOON, "state": "down", "source": "raw", "source_event_id": "r", "actor": "me",
                **given,
            }
        )  # fmt: skip

    other = row(unit_id="u-2", corrects=target)
    for wrong in (row(state="void"), row(state="odd"), other, row(source="dcim", source_event_id="d")):
        with pytest.raises((IntegrityError, DatabaseError)), transaction.atomic():
            wrong.save(force_insert=True)
    for sql in ("UPDATE contracts_serviceevent SET state = 'released'", "DELETE FROM contracts_serviceevent"):
        with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
            connection.cursor().execute(sql)
    row(corrects=target).save(force_insert=True)


# Roll-up and its events


def test_a_line_is_as_its_worst_unit_and_says_so_once(named: Contract, line: UUID) -> None:
    before = len(changes())
    record(report("in_service", MARCH), report("in_service", MARCH, "u-2"))
    record(report("down", NOON))
    record(report("degraded", NOON, "u-2"), at=NOON + HOUR)
    said = changes()[before:]
    assert [(c["status"]["before"], c["status"]["after"]) for c in said] == [
        ("not_started", "in_service"), ("in_service", "down"),
    ]  # fmt: skip
    assert said[-1]["lines"] == [
        {
            "line_id": str(line), "before": "in_service", "after": "down", "serving": 2,
            "units": {"in_service": 1, "down": 1},
        }
    ]  # fmt: skip
    view = services.service_now(named.pk)[line]
    assert (view.state, view.counts) == ("down", {"down": 1, "degraded": 1})


def test_another_unit_in_service_is_told_though_the_worst_one_is_the_same(named: Contract) -> None:
    record(report("provisioning", MARCH), report("provisioning", MARCH, "u-2"))
    record(report("in_service", MARCH + HOUR))
    assert [line["serving"] for line in changes()[-1]["lines"]] == [1]
    told = len(changes())
    record(report("in_service", NOON, source="other"))
    assert len(changes()) == told


def test_a_unit_that_begins_to_serve_behind_a_worse_one_is_told_of(named: Contract, line: UUID) -> None:
    record(report("in_service", MARCH), report("down", MARCH + HOUR))
    record(report("down", MARCH + HOUR, "u-2"))
    before = len(changes())
    record(report("in_service", MARCH + 2 * HOUR, "u-2"))
    [said] = changes()[before:]
    assert [(one["after"], one["serving"]) for one in said["lines"]] == [("down", 2)]
    record(report("deprovisioning", MARCH + 3 * HOUR, "u-2"))
    assert changes()[-1]["lines"][0]["serving"] == 1


# The clock


def test_an_alarm_shows_when_it_has_lasted_five_minutes(named: Contract) -> None:
    record(report("in_service", MARCH), report("degraded", NOON))
    assert state_of() == "in_service"
    assert services.follow_clock(at=NOON + 4 * MINUTE) == 0
    told = len(changes())
    assert services.follow_clock(at=NOON + 5 * MINUTE) == 1
    assert state_of() == "degraded"
    assert changes()[told]["status"] == {"before": "in_service", "after": "degraded"}
    assert services.follow_clock(at=NOON + 6 * MINUTE) == 0


def test_a_planned_window_begins_and_ends_by_itself(named: Contract) -> None:
    window = NOON + timedelta(days=4)
    record(
        report("in_service", MARCH), report("maintenance", window), report("in_service", window + 2 * HOUR)
    )
    assert state_of() == "in_service"
    for at, state in ((window, "maintenance"), (window + 2 * HOUR, "in_service")):
        assert services.follow_clock(at=at) == 1
        assert state_of() == state
    (served,) = services.uptime(named.pk, start=MARCH, end=window + 2 * HOUR).values()
    assert (served.down, served.served) == (timedelta(0), window - MARCH)


# Going live


def test_what_is_billed_from_service_goes_live_when_a_unit_delivers(named: Contract) -> None:
    record(report("provisioning", MARCH), report("in_service", MARCH + HOUR))
    for at, code in ((MARCH, "not_in_service"), (MARCH + HOUR - MINUTE, "not_in_service")):
        payload = {"stage": "live", "bill_from": "in_service", "service_activation_at": at.isoformat()}
        with pytest.raises(StateConflict) as refused:
            edit(named, "activate", payload, at=NOON, reason="Delivered")
        assert refused.value.code == code
        assert Contract.objects.get(pk=named.pk).status == "pending_activation"
    payload["service_activation_at"] = (MARCH + HOUR).isoformat()
    live = edit(named, "activate", payload, at=NOON, reason="Delivered").contract
    assert (live.status, live.current.live_at) == ("active", MARCH + HOUR)


def test_what_is_billed_from_another_date_waits_for_no_unit(named: Contract) -> None:
    assert edit(named, "activate", {"stage": "live"}).contract.status == "active"


# Reading


def test_what_is_in_service_is_read_by_line(named: Contract, line: UUID) -> None:
    record(report("in_service", MARCH + HOUR), report("in_service", NOON, "u-2"))
    service = services.line_service(named.pk, at=NOON).in_service
    found = service(line, MARCH, NOON + HOUR)
    assert [(i.start, i.end, i.quantity) for i in found] == [
        (MARCH + HOUR, NOON, 1), (NOON, NOON + HOUR, 2),
    ]  # fmt: skip
    assert service(uuid4(), MARCH, NOON) == []


def test_at_another_instant_units_are_as_they_were(named: Contract, line: UUID) -> None:
    record(report("provisioning", MARCH + HOUR), report("in_service", NOON))
    found = services.service_at(named.pk, valid_at=MARCH + 2 * HOUR)
    assert {unit.unit_id: unit.state for unit in found[line].units} == {
        "u-1": "provisioning", "u-2": "not_started",
    }  # fmt: skip
    assert services.service_at(named.pk, valid_at=MARCH - HOUR) == {}


# Any order

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["provisioning", "in_service", "degraded", "down", "maintenance", "access_blocked"]),
        st.integers(0, 700),
        st.sampled_from(["u-1", "u-2"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda item: item[1:],
)


@given(CHANGES, st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_reports_in_any_order_and_any_batches_leave_the_same_rows(
    named: Contract, items: Sequence[tuple[str, int, str]], data: st.DataObject
) -> None:
    def outcome(order: Sequence[tuple[str, int, str]], cuts: set[int]) -> list[tuple[Any, ...]]:
        point = transaction.savepoint()
        batch: list[ServiceReport] = []
        for i, (state, minute, unit) in enumerate(order):
            batch.append(report(state, MARCH + minute * MINUTE, unit, source_event_id=f"{minute}-{unit}"))
            if i in cuts or i == len(order) - 1:
                record(*batch)
                batch = []
        rows = UnitStatus.objects.order_by("unit_id")
        found = list(rows.values_list("unit_id", "state", "since", "irregular", "next_due_at"))
        transaction.savepoint_rollback(point)
        return found

    shuffled = data.draw(st.permutations(items))
    cuts = data.draw(st.sets(st.integers(0, len(items) - 1)))
    assert outcome(shuffled, cuts) == outcome(items, set())


# verify and rebuild


def found() -> list[str]:
    return [
        finding.subject
        for invariant in REGISTRY
        if invariant.check.__name__ in ("units_are_folds", "overdue_units")
        for finding in invariant.check()
    ]


def test_verify_finds_a_unit_that_is_not_its_reports_and_a_rebuild_puts_it_right(
    named: Contract, clock: Any
) -> None:
    record(report("in_service", MARCH), at=MARCH)
    assert found() == []
    row = UnitStatus.objects.get(unit_id="u-1")
    UnitStatus.objects.filter(pk=row.pk).update(irregular=0, since=None)
    UnitStatus.objects.filter(unit_id="u-2").delete()
    assert found() == [f"unit_status:{row.pk}", f"contract:{named.pk}"]
    rebuilt = {"contract_id": named.pk, "actor": OPERATOR, "at": MARCH}
    assert services.rebuild_service(**rebuilt, dry_run=True) == ["u-1", "u-2"]
    assert len(found()) == 2
    assert services.rebuild_service(**rebuilt) == ["u-1", "u-2"]
    assert found() == []
    assert services.rebuild_service(**rebuilt) == []


def test_verify_finds_units_that_the_clock_has_left_behind(named: Contract, clock: Any) -> None:
    record(report("in_service", MARCH), report("degraded", MARCH), at=MARCH)
    record(report("degraded", MARCH + MINUTE), at=MARCH + MINUTE)
    clock(MARCH + timedelta(days=2))
    assert found() == [f"unit_status:{UnitStatus.objects.get(unit_id='u-1').pk}"]

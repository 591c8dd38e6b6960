"""The rules of service status: the fold of reports, debounce, notice, uptime, credits, what is in service."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commerce.ids import uuid7
from contracts.rules import service
from contracts.rules.service import CONTRACT, RESTORED, VOID, WORST_FIRST, InService, Report, Span
from contracts.rules.sla import Availability, Charged, availability, sla_credit
from contracts.rules.terms import Sla, SlaTier

START = datetime(2027, 3, 1, tzinfo=UTC)
LINE = UUID(int=1)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
EVER = START + timedelta(days=365)


def report(
    state: str,
    hours: float,
    *,
    source: str = "dcim",
    unit: str = "u-1",
    told: float | None = None,
    recorded: int = 0,
    corrects: Report | None = None,
    line: UUID = LINE,
) -> Report:
    at = START + hours * HOUR
    return Report(
        id=uuid7(),
        unit_id=unit,
        line_id=line,
        at=at,
        state=state,
        source=source,
        received_at=at if told is None else START + told * HOUR,
        recorded_at=START + recorded * MINUTE,
        corrects=corrects.id if corrects else None,
    )


def told(*pairs: tuple[str, float]) -> list[Report]:
    return [report(state, hours, recorded=i) for i, (state, hours) in enumerate(pairs)]


def shown(reports: Sequence[Report], hours: float, known: int | None = None) -> str:
    known_at = None if known is None else START + known * MINUTE
    return service.status(reports, at=START + hours * HOUR, known_at=known_at).state


DELIVERED = (("provisioning", 1), ("in_service", 2))


# The fold


def test_a_unit_of_which_nothing_is_known_has_not_started() -> None:
    status = service.status([], at=START)
    assert (status.state, status.since, status.due_at, status.irregular) == ("not_started", None, None, ())


def test_a_unit_is_in_what_was_reported_last_by_its_own_instant() -> None:
    reports = told(*DELIVERED, ("down", 5), ("in_service", 6))
    assert [shown(reports, h) for h in (0, 1, 2, 5.5, 6)] == [
        "not_started", "provisioning", "in_service", "down", "in_service",
    ]  # fmt: skip
    status = service.status(reports, at=EVER)
    assert status.since == START + 6 * HOUR
    assert status.irregular == ()


def test_at_one_instant_the_later_recorded_report_counts() -> None:
    reports = told(*DELIVERED, ("down", 5), ("in_service", 5))
    assert shown(reports, 5) == "in_service"
    assert shown(list(reversed(reports)), 5) == "in_service"


def test_what_is_reported_late_changes_the_past_and_only_as_known_since() -> None:
    reports = [*told(*DELIVERED), report("down", 5, recorded=9), report("in_service", 6, recorded=9)]
    assert shown(reports, 5.5) == "down"
    assert shown(reports, 5.5, known=8) == "in_service"


@pytest.mark.parametrize(
    ("before", "after"), [(a, b) for a in service.TRANSITIONS for b in service.TRANSITIONS if a != b]
)
def test_a_transition_nobody_declared_is_followed_and_flagged(before: str, after: str) -> None:
    reports = told((before, 1), (after, 2))
    flags = service.status(reports, at=EVER).irregular
    assert shown(reports, 2) == (
        "in_service" if after == "degraded" and shown(reports, 2) != after else after
    )
    assert (reports[1].id in flags) == (after not in service.TRANSITIONS[before])


def test_a_repeated_report_is_no_change() -> None:
    reports = told(*DELIVERED, ("in_service", 3), ("in_service", 4))
    status = service.status(reports, at=EVER)
    assert status.since == START + 2 * HOUR
    assert status.irregular == ()


# Corrections


def test_a_voided_report_does_not_count_and_did_as_known_before() -> None:
    reports = told(*DELIVERED, ("down", 5))
    reports.append(report(VOID, 5, corrects=reports[-1], recorded=9))
    assert shown(reports, 6) == "in_service"
    assert shown(reports, 6, known=8) == "down"


def test_a_correction_and_its_correction_back_are_nothing() -> None:
    reports = told(*DELIVERED, ("down", 5), ("in_service", 6))
    changed = [*reports, report("degraded", 4, corrects=reports[2], recorded=8)]
    back = [*changed, report("down", 5, corrects=reports[2], recorded=9)]
    assert shown(changed, 5) == "degraded"
    assert service.spans(back, until=EVER) == service.spans(reports, until=EVER)
    assert service.spans(changed, until=EVER) != service.spans(reports, until=EVER)


def test_a_corrected_report_keeps_the_place_it_was_recorded_at() -> None:
    first, second = report("down", 5, recorded=1), report("in_service", 5, recorded=2)
    corrected = report("maintenance", 5, corrects=first, recorded=3)
    assert shown([*told(*DELIVERED), first, second, corrected], 5) == "in_service"


# Debounce


@pytest.mark.parametrize(("minutes", "state"), [(4.99, "in_service"), (5, "degraded"), (60, "degraded")])
def test_an_alarm_counts_when_it_lasted_five_minutes(minutes: float, state: str) -> None:
    reports = told(*DELIVERED, ("degraded", 5), ("in_service", 5 + minutes / 60))
    assert {span.state for span in service.spans(reports, until=EVER)} == {
        "provisioning",
        "in_service",
        state,
    }


def test_an_open_alarm_shows_after_five_minutes_from_its_beginning_on() -> None:
    reports = told(*DELIVERED, ("degraded", 5))
    early, late = (service.status(reports, at=START + 5 * HOUR + m * MINUTE) for m in (4, 5))
    assert (early.state, early.due_at) == ("in_service", START + 5 * HOUR + 5 * MINUTE)
    assert (late.state, late.since, late.due_at) == ("degraded", START + 5 * HOUR, None)


def test_two_alarms_in_a_row_last_as_one() -> None:
    reports = told(*DELIVERED, ("degraded", 5), ("degraded", 5.05), ("in_service", 5.1))
    assert service.spans(reports, until=EVER)[2] == Span(START + 5 * HOUR, START + 5.1 * HOUR, "degraded")


# What the contract says


def test_a_hold_blocks_access_whatever_the_machine_reports_and_its_end_shows_the_machine_again() -> None:
    reports = [
        *told(*DELIVERED),
        report("access_blocked", 5, source=CONTRACT),
        report("down", 6),
        report(RESTORED, 7, source=CONTRACT),
    ]
    assert [shown(reports, h) for h in (5, 6, 7)] == ["access_blocked", "access_blocked", "down"]
    assert service.status(reports, at=EVER).irregular == ()


def test_a_hold_on_what_was_not_delivered_shows_once_it_is() -> None:
    reports = [report("access_blocked", 0.5, source=CONTRACT), *told(*DELIVERED)]
    assert [shown(reports, h) for h in (1, 2)] == ["provisioning", "access_blocked"]


def test_no_report_brings_a_unit_back_that_the_contract_has_ended() -> None:
    reports = [*told(*DELIVERED), report("deprovisioning", 5, source=CONTRACT), *told(("in_service", 6))]
    assert shown(reports, 6) == "deprovisioning"
    assert service.status(reports, at=EVER).irregular == (reports[-1].id,)
    assert shown([*reports, *told(("released", 7))], 7) == "released"
    again = report("not_started", 8, source=CONTRACT)
    assert shown([*reports, again, *told(("provisioning", 9))], 9) == "provisioning"


def test_at_one_instant_the_contract_speaks_first() -> None:
    reports = [*told(("in_service", 1)), report("not_started", 1, source=CONTRACT, recorded=9)]
    assert shown(reports, 1) == "in_service"


# Any order of arrival

ANY = st.lists(
    st.tuples(
        st.sampled_from([*WORST_FIRST, RESTORED]),
        st.integers(0, 10_000),
        st.sampled_from(["dcim", "probe", CONTRACT]),
    ),
    max_size=12,
    unique_by=lambda item: item[1],
)


@given(ANY, st.randoms(use_true_random=False), st.integers(0, 10_000))
def test_any_order_of_arrival_of_the_same_reports_gives_the_same_status(
    items: list[tuple[str, int, str]], shuffle: st.DataObject, minute: int
) -> None:
    at = START + minute * MINUTE

    def arrived(order: list[tuple[str, int, str]]) -> tuple[object, ...]:
        reports = [
            report(state, minutes / 60, source=source, recorded=i, told=minutes / 60)
            for i, (state, minutes, source) in enumerate(order)
        ]
        found = service.status(reports, at=at)
        flagged = {r.at for r in reports if r.id in found.irregular}
        return found.state, found.since, found.due_at, flagged, service.spans(reports, until=at)

    shuffled = list(items)
    shuffle.shuffle(shuffled)  # type: ignore[attr-defined]
    assert arrived(shuffled) == arrived(items)


@given(ANY, st.data())
def test_correcting_any_report_and_correcting_it_back_is_identity(
    items: list[tuple[str, int, str]], data: st.DataObject
) -> None:
    reports = [report(state, m / 60, source=source, recorded=i) for i, (state, m, source) in enumerate(items)]
    if not reports:
        return
    target = data.draw(st.sampled_from(reports))
    state = data.draw(st.sampled_from([*WORST_FIRST, RESTORED, VOID]))
    there = report(state, data.draw(st.integers(0, 100)), corrects=target, recorded=100)
    back = report(target.state, 0, corrects=target, recorded=101)
    back = Report(**{**back.__dict__, "at": target.at, "received_at": target.received_at})
    assert service.spans([*reports, there, back], until=EVER) == service.spans(reports, until=EVER)
    assert service.status([*reports, there, back], at=EVER) == service.status(reports, at=EVER)


@given(ANY)
def test_spans_have_no_gaps_and_no_two_neighbours_alike(items: list[tuple[str, int, str]]) -> None:
    spans = service.spans([report(state, m / 60, source=source) for state, m, source in items], until=EVER)
    for earlier, later in pairwise(spans):
        assert earlier.end == later.start
        assert (earlier.state, earlier.excused) != (later.state, later.excused)
    assert not spans or spans[-1].end is None


# Roll-up


def test_the_worst_unit_speaks_for_all() -> None:
    for i, state in enumerate(WORST_FIRST):
        assert service.roll_up(dict.fromkeys(WORST_FIRST[i:], 1)) == state
    assert service.roll_up({"down": 0, "in_service": 3}) == "in_service"
    assert service.roll_up({}) is None


# Uptime and credits

SLA = Sla(
    tiers=(SlaTier(Decimal("0.999"), Decimal("0.05")), SlaTier(Decimal("0.99"), Decimal("0.1")),
           SlaTier(Decimal("0.95"), Decimal("0.3"))),
    degraded_weight=Decimal("0.5"),
)  # fmt: skip
MONTH = 720 * HOUR


def month(*pairs: tuple[str, float], told_at: float | None = None) -> Availability:
    reports = [report("in_service", 0), *(report(s, h, told=told_at) for s, h in pairs)]
    return availability(service.spans(reports, until=START + MONTH), START, START + MONTH)


def test_nine_hours_down_in_a_month_are_a_tenth_or_pro_rata() -> None:
    """OW-07: 98.75 %; 1,800.00 by tiers, 225.00 pro rata, of 18,000.00."""
    found = month(("down", 100), ("in_service", 109))
    assert found.uptime(SLA) == Fraction(9875, 10000)
    charges = [Charged(1_800_000, MONTH, found)]
    assert sla_credit(charges, SLA) == [180_000]
    assert sla_credit(charges, Sla(credit="pro_rata")) == [22_500]


def test_degraded_hours_count_by_their_weight() -> None:
    found = month(("degraded", 100), ("in_service", 118))
    assert found.down_minutes(SLA) == 9 * 60
    assert found.uptime(SLA) == Fraction(9875, 10000)
    assert month(("degraded", 100), ("in_service", 100.05)).uptime(SLA) == 1


@pytest.mark.parametrize(("notice", "excused"), [(72, True), (71.99, False), (0, False)])
def test_maintenance_counts_as_down_unless_announced_three_days_before(notice: float, excused: bool) -> None:
    found = month(("maintenance", 100), ("in_service", 109), told_at=100 - notice)
    assert found.uptime(SLA) == (1 if excused else Fraction(9875, 10000))
    assert found.served == (711 if excused else 720) * HOUR


def test_what_was_not_served_is_on_neither_side() -> None:
    reports = [
        *told(("provisioning", 0), ("in_service", 20), ("down", 21), ("in_service", 22)),
        report("access_blocked", 30, source=CONTRACT),
        report(RESTORED, 40, source=CONTRACT),
        report("deprovisioning", 50, source=CONTRACT),
    ]
    found = availability(service.spans(reports, until=START + MONTH), START, START + MONTH)
    assert (found.served, found.down) == (20 * HOUR, HOUR)
    assert availability(service.spans([], until=EVER), START, EVER).uptime(SLA) == 1


def test_a_credit_is_capped_and_rounded_once() -> None:
    dead = month(("down", 0))
    assert dead.uptime(SLA) == 0
    halved = Sla(credit="pro_rata", cap=Decimal("0.5"))
    assert sla_credit([Charged(1_000_001, MONTH, dead)], halved) == [500_001]
    assert sla_credit([Charged(1, MONTH, dead), Charged(2, MONTH, dead)], halved) == [1, 1]
    assert sla_credit([Charged(1_000_001, MONTH, month())], SLA) == [0]
    assert sla_credit([], SLA) == []


def test_of_four_units_one_down_is_a_quarter_pro_rata() -> None:
    found = month(("down", 0)) + month() + month() + month()
    assert sla_credit([Charged(7_200_000, 4 * MONTH, found)], Sla(credit="pro_rata")) == [1_800_000]


def test_a_unit_serves_from_its_first_delivery_until_it_is_deprovisioned() -> None:
    reports = told(("provisioning", 0), ("down", 1), ("in_service", 2), ("down", 5), ("deprovisioning", 6))
    found = service.served([*reports, report("down", 7)], until=EVER)
    assert [(span.state, span.start, span.end) for span in found] == [
        ("in_service", START + 2 * HOUR, START + 5 * HOUR), ("down", START + 5 * HOUR, START + 6 * HOUR),
    ]  # fmt: skip
    (open_,) = service.served(reports[:3], until=START + 4 * HOUR)
    assert (open_.start, open_.end) == (START + 2 * HOUR, START + 4 * HOUR)
    assert service.served(reports[:2], until=EVER) == []


# What is in service


def test_a_line_is_in_service_unit_by_unit_from_the_first_delivery_to_the_end() -> None:
    reports = [
        *told(("provisioning", 0), ("in_service", 10), ("down", 12), ("in_service", 14)),
        report("provisioning", 0, unit="u-2"),
        report("in_service", 20, unit="u-2"),
        report("deprovisioning", 30, source=CONTRACT),
        report("in_service", 1, unit="u-9", line=UUID(int=2)),
    ]
    hours = [
        ((i.start - START) / HOUR, (i.end - START) / HOUR, i.quantity)
        for i in service.in_service_intervals(reports, LINE, START + 5 * HOUR, START + 40 * HOUR)
    ]
    assert hours == [(10, 20, 1), (20, 30, 2), (30, 40, 1)]
    assert service.in_service_intervals(reports, LINE, START, START + 10 * HOUR) == []
    inside = service.in_service_intervals(reports, LINE, START + 21 * HOUR, START + 22 * HOUR)
    assert inside == [InService(START + 21 * HOUR, START + 22 * HOUR, 2)]


def test_a_unit_taken_in_again_is_in_service_again_when_it_delivers_again() -> None:
    reports = [
        *told(("in_service", 1)),
        report("deprovisioning", 5, source=CONTRACT),
        report("not_started", 10, source=CONTRACT),
        *told(("provisioning", 11), ("in_service", 12)),
    ]
    found = service.in_service_intervals(reports, LINE, START, START + 20 * HOUR)
    assert [(i.start, i.end) for i in found] == [
        (START + HOUR, START + 5 * HOUR), (START + 12 * HOUR, START + 20 * HOUR),
    ]  # fmt: skip


def test_what_is_in_service_is_told_as_known_at_any_instant() -> None:
    reports = [report("in_service", 1, recorded=5)]
    window = (START, START + 10 * HOUR)
    assert service.in_service_intervals(reports, LINE, *window, START + 4 * MINUTE) == []
    assert service.in_service_intervals(reports, LINE, *window, START + 5 * MINUTE)[0].quantity == 1

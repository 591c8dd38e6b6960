"""Service in the console: reports, units, and how the lines of a contract are.

An operator may report what a unit does, or correct what a machine reported; both say why.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminSplitDateTimeWidget

from commerce import clock
from commerce.actor import Actor
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import NOTHING, badge, in_short, instant, link, number, shown_json, subject_link
from commerce.console.registry import register_panel
from commerce.ids import uuid7
from contracts import services
from contracts.admin.instants import view_of
from contracts.models import Contract, ServiceEvent, UnitStatus
from contracts.rules.service import CONTRACT, REPORTED, VOID, WORST_FIRST
from contracts.rules.sla import Availability
from contracts.rules.state import ContractState
from contracts.services.service_placing import CONSOLE, ServiceReport
from contracts.services.service_reading import ServiceView
from contracts.services.service_status import lock_service

PERMISSION = "contracts.record_serviceevent"
CORRECTABLE = 50
HISTORY = 20
SHOWN = 50
# Beyond so many units the page does not reckon uptime: it reads every report of the contract.
MOST_UNITS = 500
TONES = {
    "down": "bad", "access_blocked": "warn", "degraded": "warn", "maintenance": "warn",
    "provisioning": "busy", "in_service": "good",
}  # fmt: skip
_WORDS = [(state, state.replace("_", " ")) for state in REPORTED]


def _at(help_text: str) -> forms.SplitDateTimeField:
    return forms.SplitDateTimeField(
        required=False, widget=UnfoldAdminSplitDateTimeWidget, help_text=help_text
    )


class ReportForm(forms.Form):
    state = forms.ChoiceField(
        choices=[pair for pair in _WORDS if pair[0] != VOID], widget=UnfoldAdminSelectWidget
    )
    since = _at("UTC; now when left empty.")


class CorrectForm(forms.Form):
    event = forms.ModelChoiceField(
        ServiceEvent.objects.none(), label="Report", widget=UnfoldAdminSelectWidget
    )
    state = forms.ChoiceField(
        label="Should have said",
        choices=[(VOID, "nothing: it does not count"), *(pair for pair in _WORDS if pair[0] != VOID)],
        widget=UnfoldAdminSelectWidget,
    )
    since = _at("UTC; its own instant when left empty.")


class ServiceAction(ObjectAction):
    """Takes the contract's service before the unit's row, in the order of everybody else who writes them."""

    def execute(self, obj: Any, *, actor: Actor, form: forms.Form) -> Any:
        with transaction.atomic():
            lock_service([obj.contract_id])
            return super().execute(obj, actor=actor, form=form)


def report_state(*, obj: UnitStatus, actor: Actor, at: Any, reason: str, state: str, since: Any) -> str:
    _record(obj, actor, at, reason, state=state, at_=since or at)
    return f"{obj.unit_id}: recorded as {state.replace('_', ' ')}."


def correct_report(
    *, obj: UnitStatus, actor: Actor, at: Any, reason: str, event: ServiceEvent, state: str, since: Any
) -> str:
    _record(obj, actor, at, reason, state=state, at_=since or event.at, target=event)
    return f"{obj.unit_id}: the report is {'void' if state == VOID else 'corrected'}."


def _record(
    unit: UnitStatus,
    actor: Actor,
    at: Any,
    reason: str,
    *,
    state: str,
    at_: Any,
    target: ServiceEvent | None = None,
) -> None:
    report = ServiceReport(
        unit_id=unit.unit_id,
        state=state,
        at=at_,
        source=CONSOLE,
        source_event_id=str(uuid7()),
        contract_id=unit.contract_id,
        line_id=unit.line_id,
        corrects=target.source_event_id if target else "",
        corrects_source=target.source if target else "",
        detail={"reason": reason},
    )
    services.record_service_events(events=[report], actor=actor, at=at)


def _corrects(unit: UnitStatus) -> type[forms.Form]:
    rows = _events_of(unit).filter(corrects__isnull=True).exclude(source=CONTRACT)
    newest = rows.order_by("-id").values("pk")[:CORRECTABLE]
    event = _ReportField(
        ServiceEvent.objects.filter(pk__in=newest), label="Report", widget=UnfoldAdminSelectWidget
    )
    return type("CorrectForm", (CorrectForm,), {"event": event})


class _ReportField(forms.ModelChoiceField):
    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.get_state_display()} since {obj.at:%Y-%m-%d %H:%M:%S}, by {obj.source}"


def _events_of(unit: UnitStatus) -> QuerySet[ServiceEvent]:
    return ServiceEvent.objects.filter(
        contract_id=unit.contract_id, line_id=unit.line_id, unit_id=unit.unit_id
    )


@admin.register(UnitStatus)
class UnitStatusAdmin(ConsoleAdmin):
    """What each unit does now: the fold of its reports. Surprising reports count and are flagged."""

    icon = "monitor_heart"
    list_display = ("unit", "state_badge", "contract_link", "since_instant", "irregular")
    list_filter = ("state",)
    list_select_related = ("contract",)
    search_fields = ("unit_id__startswith", "id__exact")
    search_help_text = "How the unit's name begins, or the id."
    fields = (
        "unit", "state_badge", "contract_link", "line", "since_instant", "irregular", "as_of",
        "next_change",
    )  # fmt: skip

    def get_object_actions(self, request: HttpRequest, obj: UnitStatus) -> list[ObjectAction]:
        return [
            ServiceAction(
                "report",
                "Report a state",
                permission=PERMISSION,
                run=report_state,
                form=ReportForm,
                consequences=lambda unit: (
                    f"It is {unit.get_state_display().lower()} now. What you report counts until something "
                    "else is reported; what it costs or credits follows from it."
                ),
            ),
            ServiceAction(
                "correct",
                "Correct a report",
                permission=PERMISSION,
                run=correct_report,
                form=_corrects(obj),
                consequences=lambda unit: (
                    "The report stays, and so does what was believed because of it; from now on this counts "
                    "in its place. What a contract says is corrected in the contract."
                ),
            ),
        ]

    @admin.display(description="Unit")
    def unit(self, obj: UnitStatus) -> str:
        return obj.unit_id

    @admin.display(description="Line")
    def line(self, obj: UnitStatus) -> str:
        return _line_of(obj)

    @admin.display(description="State")
    def state_badge(self, obj: UnitStatus) -> SafeString:
        return service_badge(obj.state)

    @admin.display(description="Contract")
    def contract_link(self, obj: UnitStatus) -> SafeString:
        return link(obj.contract)

    @admin.display(description="Since")
    def since_instant(self, obj: UnitStatus) -> SafeString:
        return instant(obj.since)

    @admin.display(description="As of")
    def as_of(self, obj: UnitStatus) -> SafeString:
        return instant(obj.projected_at)

    @admin.display(description="Next change by the clock")
    def next_change(self, obj: UnitStatus) -> SafeString:
        return instant(obj.next_due_at)


@admin.register(ServiceEvent)
class ServiceEventAdmin(ConsoleAdmin):
    """What machines, operators and contracts reported of units: written once, never changed."""

    icon = "sensors"
    list_display = ("unit", "state_badge", "at_instant", "source", "contract_link", "recorded", "correction")
    list_filter = ("state",)
    list_select_related = ("contract",)
    search_fields = ("unit_id__exact", "id__exact")
    search_help_text = "The unit's whole name, or the id."
    fields = (
        "unit", "state_badge", "at_instant", "contract_link", "line", "source", "source_event_id",
        "correction", "received", "recorded", "actor", "shown_detail",
    )  # fmt: skip

    @admin.display(description="Unit")
    def unit(self, obj: ServiceEvent) -> str:
        return obj.unit_id

    @admin.display(description="Line")
    def line(self, obj: ServiceEvent) -> str:
        return _line_of(obj)

    @admin.display(description="State")
    def state_badge(self, obj: ServiceEvent) -> SafeString:
        return service_badge(obj.state)

    @admin.display(description="From")
    def at_instant(self, obj: ServiceEvent) -> SafeString:
        return instant(obj.at)

    @admin.display(description="Contract")
    def contract_link(self, obj: ServiceEvent) -> SafeString:
        return link(obj.contract)

    @admin.display(description="Received")
    def received(self, obj: ServiceEvent) -> SafeString:
        return instant(obj.received_at)

    @admin.display(description="Recorded")
    def recorded(self, obj: ServiceEvent) -> SafeString:
        return instant(obj.recorded_at)

    @admin.display(description="Corrects")
    def correction(self, obj: ServiceEvent) -> SafeString | str:
        return link(obj.corrects, "a report") if obj.corrects_id else "—"

    @admin.display(description="Detail")
    def shown_detail(self, obj: ServiceEvent) -> SafeString:
        return shown_json(obj.detail)


def _line_of(row: UnitStatus | ServiceEvent) -> str:
    """What the unit is of."""
    line = row.contract.current.lines.get(row.line_id)
    return line.product_code if line else NOTHING


def service_badge(state: str | None) -> SafeString:
    return badge(state, TONES.get(state or "", "plain"))


def units(contract: Contract, request: HttpRequest) -> SafeString:
    """By line the worst state, units by state and the period's uptime; then the units, worst first."""
    view = view_of(contract, request)
    at = view.valid_at if view.asked else clock.now()
    if view.asked:
        found = services.service_at(contract.pk, valid_at=at, known_at=view.known_at)
    else:
        found = services.service_now(contract.pk)
    up = _uptime(contract, view.state, found, at, view.known_at)
    names = {line_id: line.product_code for line_id, line in view.state.lines.items()}
    by_line = [
        (names.get(id_, id_), service_badge(one.state), _in_each(one), _irregular(one), up.get(id_, NOTHING))
        for id_, one in found.items()
    ]
    pages = dict(UnitStatus.objects.filter(contract=contract, line_id__in=found).values_list("unit_id", "pk"))
    worst = sorted(
        ((unit, id_) for id_, one in found.items() for unit in one.units),
        key=lambda pair: (WORST_FIRST.index(pair[0].state), pair[0].unit_id),
    )
    each = [
        (
            subject_link("contracts.unitstatus", pages.get(unit.unit_id), unit.unit_id),
            names.get(id_, id_),
            service_badge(unit.state),
            instant(unit.since),
        )
        for unit, id_ in worst[:SHOWN]
    ]
    headers = ["Line", "Worst", "Units", "Flagged", ">Uptime this period"]
    return format_html(
        "{}{}",
        table(
            headers, by_line, empty="Units appear here when the signed contract names them or reports come."
        ),
        table(["Unit", "Line", "State", "Since"], each) if each else "",
    )


def reported(contract: Contract, request: HttpRequest) -> SafeString:
    view = view_of(contract, request)
    known = {"recorded_at__lte": view.known_at} if view.known_at else {}
    rows = [
        (
            link(row, row.unit_id),
            format_html("{}{}", service_badge(row.state), " as a correction" if row.corrects_id else ""),
            instant(row.at),
            row.source,
            in_short(str(row.detail.get("reason", ""))),
        )
        for row in ServiceEvent.objects.filter(contract=contract, **known).order_by("-id")[:HISTORY]
    ]
    empty = "Nothing was reported by then." if view.asked else "Nothing has been reported yet."
    return table(["Unit", "Reported", "From", "By", "Why"], rows, empty=empty)


def _in_each(view: ServiceView) -> SafeString:
    return format_html_join(
        " ", "{} {}", ((number(view.counts[s]), service_badge(s)) for s in WORST_FIRST if s in view.counts)
    )


def _irregular(view: ServiceView) -> SafeString | str:
    count = sum(unit.irregular for unit in view.units)
    return number(count) if count else "none"


def _uptime(
    contract: Contract,
    state: ContractState,
    found: dict[UUID, ServiceView],
    at: datetime,
    known_at: datetime | None,
) -> dict[UUID, str]:
    if state.start_at is None or sum(len(view.units) for view in found.values()) > MOST_UNITS:
        return {}
    period = state.period(at)
    up = services.uptime(contract.pk, start=period.start, end=at, known_at=known_at)
    return {line_id: _percent(served, state) for line_id, served in up.items() if served.served}


def _percent(served: Availability, state: ContractState) -> str:
    """Rounded down, so that 100 % is what it says."""
    hundredths = int(served.uptime(state.terms.sla) * 10_000)
    return f"{hundredths // 100}.{hundredths % 100:02} %"


register_panel("contracts.contract", title="Units", render=units, order=20, tab="Service")
register_panel("contracts.contract", title="Reported last", render=reported, order=21, tab="Service")

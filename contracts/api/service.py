"""Service status over HTTP: reports in, of up to 1,000 units at once; how a contract's units are, out."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from commerce.api.serializers import InstantField, StrictSerializer
from commerce.api.views import CommerceViewSet
from contracts import services
from contracts.models import ServiceEvent, UnitStatus
from contracts.rules.schema import instant
from contracts.rules.service import REPORTED
from contracts.services.service_placing import MOST_EVENTS, ServiceReport
from contracts.services.service_reading import ServiceView, view_of


class CountsField(serializers.DictField):
    """State → number of units."""

    child = serializers.IntegerField()


class ServiceEventInput(StrictSerializer):
    """One report. Its id identifies it within its reporter, source and unit, for good."""

    id = serializers.CharField(max_length=200)
    source = serializers.CharField(max_length=120, help_text="Which system reports.")  # type: ignore[assignment]
    unit_id = serializers.CharField(max_length=120)
    state = serializers.ChoiceField(
        REPORTED,
        help_text="What the unit does from `at` on. `access_restored` ends an `access_blocked` of the same "
        "source; `void` says that the report it corrects does not count.",
    )
    at = InstantField(help_text="Past; maintenance and its end may be planned, 72 hours ahead to be excused.")
    contract_id = serializers.UUIDField(
        required=False, help_text="With line_id; both may be left out where the unit is known."
    )
    line_id = serializers.UUIDField(required=False)
    corrects = serializers.CharField(
        required=False,
        max_length=200,
        help_text="Id of the report, of this source and unit, put right by this.",
    )
    detail = serializers.DictField(required=False, help_text="At most 4,000 characters of JSON.")


class ServiceEventsInput(StrictSerializer):
    events = serializers.ListField(child=ServiceEventInput(), min_length=1, max_length=MOST_EVENTS)


class ServiceEventsRecorded(serializers.Serializer):
    recorded = serializers.IntegerField()
    duplicates = serializers.ListField(
        child=serializers.IntegerField(), help_text="Places in `events` of what was recorded before."
    )
    flagged = serializers.ListField(
        child=serializers.IntegerField(),
        help_text="Places of reports that are surprising after what is known; they count all the same.",
    )


class UnitSerializer(serializers.Serializer):
    unit_id = serializers.CharField()
    state = serializers.ChoiceField(UnitStatus.State.choices)
    since = InstantField(allow_null=True)


class LineServiceSerializer(serializers.Serializer):
    line_id = serializers.UUIDField()
    status = serializers.ChoiceField(UnitStatus.State.choices, help_text="The worst state of its units.")
    counts = CountsField()
    units = UnitSerializer(many=True)


class ContractServiceSerializer(serializers.Serializer):
    """The units that were reported on the lines that the key may see."""

    contract_id = serializers.UUIDField()
    status = serializers.ChoiceField(
        UnitStatus.State.choices, allow_null=True, help_text="The worst of all units; null without any."
    )
    counts = CountsField()
    lines = LineServiceSerializer(many=True)


class ServiceEventViewSet(CommerceViewSet):
    """What machines report of units. A scope of its own, for integrations that do nothing else."""

    scope = "service"
    queryset = ServiceEvent.objects.all()
    serializer_class = ServiceEventsInput

    @extend_schema(
        responses={201: ServiceEventsRecorded},
        examples=[
            OpenApiExample(
                "A probe failed and passed again",
                request_only=True,
                value={
                    "events": [
                        {
                            "id": f"probe-7-{number}",
                            "source": "dcim/eu-1",
                            "unit_id": "eu1-r07-u12",
                            "state": state,
                            "at": at,
                            "detail": {"probe": "icmp"},
                        }
                        for number, state, at in (
                            (41, "down", "2027-03-02T11:00:00Z"),
                            (42, "in_service", "2027-03-02T11:25:00Z"),
                        )
                    ]
                },
            )
        ],
    )
    def create(self, request: Request) -> Response:
        """Record reports, all of them or none. They may come late, twice and in any order."""
        events = self.validated(ServiceEventsInput)["events"]
        recorded = services.record_service_events(
            events=[_report(event) for event in events], actor=self.actor, at=self.at
        )
        body = {
            "recorded": len(recorded.events),
            "duplicates": recorded.duplicates,
            "flagged": recorded.flagged,
        }
        return Response(body, status=201)


def represent_service(contract_id: UUID, lines: dict[UUID, ServiceView]) -> dict[str, Any]:
    whole = view_of([unit for view in lines.values() for unit in view.units])
    return {
        "contract_id": str(contract_id),
        "status": whole.state,
        "counts": whole.counts,
        "lines": [
            {
                "line_id": str(line_id),
                "status": view.state,
                "counts": view.counts,
                "units": [
                    {
                        "unit_id": unit.unit_id,
                        "state": unit.state,
                        "since": instant(unit.since) if unit.since else None,
                    }
                    for unit in view.units
                ],
            }
            for line_id, view in sorted(lines.items())
        ],
    }


def _report(event: dict[str, Any]) -> ServiceReport:
    return ServiceReport(**{"source_event_id": event.pop("id"), **event})

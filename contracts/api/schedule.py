"""What a contract is scheduled for over HTTP: for its buyer and the platform."""

from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from commerce.api.serializers import InstantField
from contracts.models import ScheduledCommand
from contracts.rules.schema import instant
from contracts.services.upcoming import Upcoming, upcoming

KINDS = [*ScheduledCommand.Kind.values, "edit", "clock"]


class UpcomingSerializer(serializers.Serializer):
    at = InstantField(help_text="As of when it is done.")
    kind = serializers.ChoiceField(KINDS, help_text="edit: recorded already; clock: nobody records it.")
    title = serializers.CharField()
    key = serializers.CharField(allow_null=True, help_text="Of a command, and of the edit it is to record.")
    operation = serializers.CharField(allow_null=True, help_text="What a command records; null if nothing.")
    status = serializers.ChoiceField(["planned", "blocked"], allow_null=True, help_text="Of a command.")
    error = serializers.CharField(allow_null=True, help_text="Why it is blocked, or failed last.")
    edits = serializers.ListField(child=serializers.IntegerField(), help_text="Numbers in the log.")


class ScheduleSerializer(serializers.Serializer):
    items = UpcomingSerializer(many=True)


class Scheduled:
    """The schedule's action of the contracts' view set."""

    @extend_schema(responses=ScheduleSerializer)
    @action(detail=True, query_serializer=None)
    def schedule(self: Any, request: Request, pk: Any = None) -> Response:
        """Scheduled commands that are open, edits that take effect later, and what the clock will do."""
        contract = self.get_object()
        if self.viewer not in ("platform", contract.buyer_id):
            raise Http404
        return Response({"items": [_item(item) for item in upcoming(contract, at=self.at)]})


def _item(item: Upcoming) -> dict[str, Any]:
    command = item.command
    return {
        "at": instant(item.at),
        "kind": item.kind,
        "title": item.title,
        "key": command.key if command else None,
        "operation": (command.operation or None) if command else None,
        "status": command.status if command else None,
        "error": (command.last_error or None) if command else None,
        "edits": item.edits,
    }

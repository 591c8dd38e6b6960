"""Batches of operations, what they would do, and asking a second person to agree to them."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from commerce.api.etag import etag, require_if_match
from commerce.api.idempotency import key_of
from commerce.api.serializers import InstantField, StrictSerializer
from commerce.errors import InvalidInput
from contracts import services
from contracts.api.representations import BatchResultSerializer, PreviewSerializer
from contracts.rules import schema
from contracts.rules.operations import REGISTRY
from contracts.services.edits import MAX_BATCH

OPERATIONS = [name for name in REGISTRY if name != "create"]
IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    required=True,
    description="The ETag that the change is based on.",
)
OPERATION_SCHEMA = {
    "oneOf": [
        {
            "type": "object",
            "title": name,
            "properties": {
                "operation": {"type": "string", "enum": [name]},
                "payload": schema.describe(REGISTRY[name].payload),
                "effective_at": {
                    "type": "string",
                    "format": "date-time",
                    "description": "Now by default; the past needs a reason.",
                },
                "reason": {"type": "string", "maxLength": 500},
            },
            "required": ["operation", "payload"],
            "additionalProperties": False,
        }
        for name in OPERATIONS
    ]
}
_OPERATIONS_SCHEMA = {"type": "array", "items": OPERATION_SCHEMA, "minItems": 1, "maxItems": MAX_BATCH}
_BATCH_SCHEMA = {
    "type": "object",
    "properties": {"operations": _OPERATIONS_SCHEMA},
    "required": ["operations"],
    "additionalProperties": False,
}
_APPROVAL_SCHEMA = {
    **_BATCH_SCHEMA,
    "properties": {
        "operations": _OPERATIONS_SCHEMA,
        "reason": {"type": "string", "minLength": 1, "maxLength": 500},
    },
    "required": ["operations", "reason"],
}
_LINE = "019cd0a1-7b00-7000-8000-000000000002"
_EXAMPLE = OpenApiExample(
    "A server more, and a hold until it is delivered",
    value={
        "operations": [
            {"operation": "change_quantity", "payload": {"line_id": _LINE, "delta": 1}},
            {"operation": "suspend", "payload": {"reason": "seller_fault", "billing": "stop"}},
        ]
    },
    request_only=True,
)


class OperationSerializer(StrictSerializer):
    operation = serializers.CharField(max_length=40, help_text=f"One of {', '.join(OPERATIONS)}.")
    payload = serializers.JSONField(help_text="The operation's own fields.")
    effective_at = InstantField(required=False, help_text="Now by default; the past needs a reason.")
    reason = serializers.CharField(required=False, allow_blank=True, max_length=500, default="")


class BatchSerializer(StrictSerializer):
    operations = serializers.ListField(child=OperationSerializer(), min_length=1, max_length=MAX_BATCH)


class ApprovalRequestSerializer(BatchSerializer):
    reason = serializers.CharField(max_length=500)


class RequestedSerializer(serializers.Serializer):
    """An approval that waits for somebody else; approving it records the operations."""

    approval_id = serializers.UUIDField()
    status = serializers.CharField()
    expires_at = InstantField()
    why = serializers.ListField(child=serializers.CharField(), help_text="Why two people must agree.")


class Editing:
    """Actions of the contracts' view set; it provides the answers' shapes."""

    @extend_schema(
        request={"application/json": _BATCH_SCHEMA},
        responses={201: BatchResultSerializer},
        parameters=[IF_MATCH],
        examples=[_EXAMPLE],
    )
    @action(detail=True, methods=["post"], query_serializer=None)
    def batches(self: Any, request: Request, pk: Any = None) -> Response:
        """Record up to 50 operations on the version named by If-Match, all or none."""
        result = services.record_edits(
            **self.arguments(BatchSerializer, require_if_match(request)),
            idempotency_key=f"{self.actor}:{key_of(request)}",
        )
        return Response(
            {
                "edits": self.shown_edits(result.edits),
                "contract": self.shown_contract(result.contract, result.contract.current),
            },
            status=201,
            headers={"ETag": etag(result.contract.version)},
        )

    @extend_schema(
        request={"application/json": _BATCH_SCHEMA}, responses=PreviewSerializer, examples=[_EXAMPLE]
    )
    @action(detail=True, methods=["post"], query_serializer=None, url_path="batches/preview")
    def batches_preview(self: Any, request: Request, pk: Any = None) -> Response:
        """What a batch would do: the same checks and the same result, nothing written."""
        arguments = self.arguments(BatchSerializer, None)
        return self.shown_preview(services.preview_edits(**arguments))

    @extend_schema(
        request={"application/json": _APPROVAL_SCHEMA},
        responses={201: RequestedSerializer},
        parameters=[IF_MATCH],
    )
    @action(detail=True, methods=["post"], query_serializer=None)
    def approvals(self: Any, request: Request, pk: Any = None) -> Response:
        """Ask somebody else to agree to operations that need two people; nothing is recorded before."""
        arguments = self.arguments(ApprovalRequestSerializer, require_if_match(request))
        approval = services.request_edits(**arguments, key=f"{self.actor}:{key_of(request)}"[:200])
        return Response(
            {
                "approval_id": str(approval.pk),
                "status": approval.status,
                "expires_at": schema.instant(approval.expires_at),
                "why": approval.arguments.get("why", []),
            },
            status=201,
        )

    def arguments(self: Any, serializer: type[StrictSerializer], version: int | None) -> dict[str, Any]:
        """Of the services that take several operations."""
        given = self.validated(serializer)
        operations = [services.OperationRequest(**dict(item)) for item in given.pop("operations")]
        if not all(isinstance(request.payload, dict) for request in operations):
            place = next(i for i, one in enumerate(operations) if not isinstance(one.payload, dict))
            raise InvalidInput(
                "Must be an object.", pointer=f"/operations/{place}/payload", code="invalid_type"
            )
        return {
            **given,
            "operations": operations,
            "contract_id": self.get_object().pk,
            "actor": self.actor,
            "at": self.at,
            "expected_version": version,
        }

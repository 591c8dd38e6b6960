"""Contracts over HTTP: create, read at any two instants, record operations, preview them.

What a key sees of a contract is decided in `contracts.rules.visibility`, for every answer here.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from commerce.api.etag import etag, require_if_match
from commerce.api.idempotency import key_of
from commerce.api.serializers import InstantField, PageQuery, Query, StrictModelSerializer, StrictSerializer
from commerce.api.views import CommerceViewSet
from commerce.errors import NotFound
from commerce.parties.models import Organization
from contracts import services
from contracts.api.service import ContractServiceSerializer, represent_service
from contracts.models import Contract, ContractEdit
from contracts.rules import fold, schema
from contracts.rules.operations import REGISTRY
from contracts.rules.operations.create import Create
from contracts.rules.state import ContractState, changes, digest
from contracts.rules.visibility import Json, Viewer, roles_of, seen_edits, seen_timeline, shown

IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    required=True,
    description="The ETag that the change is based on.",
)
OPERATIONS = [name for name in REGISTRY if name != "create"]


class InstantsQuery(Query):
    valid_at = InstantField(required=False, help_text="The state at this instant; now by default.")
    known_at = InstantField(required=False, help_text="As known at this instant; now by default.")


class KnownQuery(Query):
    known_at = InstantField(required=False, help_text="As known at this instant; now by default.")


class ContractQuery(PageQuery):
    status = serializers.ChoiceField(choices=Contract.Status.choices, required=False)
    number = serializers.CharField(required=False, max_length=32)


class ContractSummarySerializer(StrictModelSerializer):
    class Meta:
        model = Contract
        fields = (
            "id", "number", "status", "version", "buyer_id", "currency", "start_at", "end_at", "next_due_at",
        )  # fmt: skip
        read_only_fields = fields
        extra_kwargs = {
            "buyer_id": {"allow_null": True, "help_text": "Null for a partner."},
            "next_due_at": {"help_text": "Null for a seller or partner."},
        }

    def to_representation(self, row: Contract) -> Json:
        body = super().to_representation(row)
        viewer = self.context["view"].viewer
        if viewer not in ("platform", row.buyer_id):
            body["next_due_at"] = None
            body["buyer_id"] = body["buyer_id"] if viewer in row.seller_ids else None
        return body


class ContractSerializer(serializers.Serializer):
    """A contract at an instant: lines, terms and holds as they stood then, those that the key may see."""

    id = serializers.UUIDField()
    number = serializers.CharField()
    status = serializers.ChoiceField(choices=[*Contract.Status.values])
    version = serializers.IntegerField(help_text="Number of edits; the ETag.")
    buyer_id = serializers.UUIDField(allow_null=True, help_text="Null for a partner.")
    currency = serializers.CharField()
    start_at = InstantField()
    end_at = InstantField(allow_null=True)
    billing = serializers.DictField()
    terms = serializers.DictField()
    lines = serializers.ListField(child=serializers.DictField())
    holds = serializers.ListField(child=serializers.DictField())
    signatures = serializers.ListField(child=serializers.DictField())
    needs_resign = serializers.BooleanField()
    state_hash = serializers.CharField(help_text="Digest of what is shown: equal when nothing differs.")


class EditSerializer(StrictModelSerializer):
    actor = serializers.SerializerMethodField()
    contract_id = serializers.UUIDField()

    class Meta:
        model = ContractEdit
        fields = (
            "id", "contract_id", "seq", "operation", "op_version", "payload", "effective_at", "recorded_at",
            "actor", "reason", "supersedes", "hash",
        )  # fmt: skip
        read_only_fields = fields
        extra_kwargs = {"hash": {"help_text": "Of the whole row, for the platform; else empty."}}

    def get_actor(self, row: ContractEdit) -> str:
        return row.actor_label or f"{row.actor_type}:{row.actor_id}"


class OperationSerializer(StrictSerializer):
    operation = serializers.CharField(max_length=40, help_text=f"One of {', '.join(OPERATIONS)}.")
    payload = serializers.JSONField(help_text="The operation's own fields.")
    effective_at = InstantField(required=False, help_text="Now by default; the past needs a reason.")
    reason = serializers.CharField(required=False, allow_blank=True, max_length=500, default="")


class OperationResultSerializer(serializers.Serializer):
    edit = EditSerializer()
    contract = ContractSerializer()


class InstantStateSerializer(serializers.Serializer):
    at = InstantField()
    edits = serializers.ListField(child=serializers.IntegerField(), help_text="Empty when the clock did it.")
    contract = ContractSerializer()


class TimelineSerializer(serializers.Serializer):
    items = InstantStateSerializer(many=True)


class PreviewSerializer(serializers.Serializer):
    effective_at = InstantField()
    before = serializers.DictField(help_text="JSON pointer to value, of what would change.")
    after = serializers.DictField()
    contract = ContractSerializer(help_text="The state that would hold at effective_at.")


_EXAMPLE = {
    "buyer_id": "019cd0a1-7b00-7000-8000-000000000001",
    "currency": "USD",
    "start_at": "2027-03-01T00:00:00Z",
    "term": {"kind": "fixed", "months": 12},
    "billing": {"anchor_day": 1},
    "terms": {
        "payment": {"net_days": 14, "grace_days": 3},
        "tax": {"rate": "0.0825"},
        "settlement": {"fee_rate": "0.125", "seasoning_days": 7},
    },
    "lines": [
        {
            "line_id": "019cd0a1-7b00-7000-8000-000000000002",
            "product": "h100-server",
            "seller_id": "019cd0a1-7b00-7000-8000-000000000003",
            "quantity": 2,
            "price": {"model": "unit", "rate": "18000.00"},
        }
    ],
}
_OPERATION_EXAMPLES = [
    OpenApiExample(
        "Go live", value={"operation": "activate", "payload": {"stage": "live"}}, request_only=True
    ),
    OpenApiExample(
        "One server more, from the day it was delivered",
        value={
            "operation": "change_quantity",
            "payload": {"line_id": "019cd0a1-7b00-7000-8000-000000000002", "delta": 1},
            "effective_at": "2027-03-10T00:00:00Z",
            "reason": "Delivered on the 10th",
        },
        request_only=True,
    ),
]
_OPERATION_SCHEMA = {
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


class ContractViewSet(mixins.ListModelMixin, CommerceViewSet):
    """Each party sees its own part of its contracts; the platform and the buyer record operations."""

    scope = "contracts"
    queryset = Contract.objects.all()
    serializer_class = ContractSummarySerializer
    query_serializer = ContractQuery

    def visible(self, queryset: QuerySet, organization: Organization) -> QuerySet:
        return queryset.filter(pk__in=Contract.objects.of(organization.pk).values("pk"))

    @property
    def viewer(self) -> Viewer:
        return "platform" if self.sees_everything else self.api_key.organization.pk

    def declared_query(self) -> type[Query] | None:
        return InstantsQuery if self.action == "retrieve" else super().declared_query()

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        if self.action == "list":
            names = ("status", "number")
            queryset = queryset.filter(**{name: self.query[name] for name in names if name in self.query})
        return super().filter_queryset(queryset)

    @extend_schema(
        request={"application/json": schema.describe(Create)},
        responses={201: ContractSerializer},
        examples=[OpenApiExample("Two servers for a year", value=_EXAMPLE, request_only=True)],
    )
    def create(self, request: Request) -> Response:
        """Open a draft. Line ids are yours to choose."""
        result = services.create_contract(
            payload=request.data, actor=self.actor, at=self.at, idempotency_key=key_of(request)
        )
        contract = result.contract
        headers = {"ETag": etag(contract.version), "Location": f"{request.path}{contract.pk}/"}
        return Response(represent(contract, contract.current, self.viewer), status=201, headers=headers)

    @extend_schema(responses=ContractSerializer)
    def retrieve(self, request: Request, pk: Any = None) -> Response:
        """The contract now, or as it stood at `valid_at`, as known at `known_at`."""
        contract = self.get_object()
        state = contract.current
        if self.query:
            state = fold.fold(
                services.contract_edits(contract.pk),
                valid_at=self.query.get("valid_at", self.at),
                known_at=self.query.get("known_at"),
            )
        return Response(represent(contract, state, self.viewer), headers={"ETag": etag(contract.version)})

    @extend_schema(
        request={"application/json": _OPERATION_SCHEMA},
        responses={201: OperationResultSerializer},
        parameters=[IF_MATCH],
        examples=_OPERATION_EXAMPLES,
    )
    @action(detail=True, methods=["post"], query_serializer=None)
    def operations(self, request: Request, pk: Any = None) -> Response:
        """Record one operation on the version named by If-Match."""
        result = services.record_edit(**self._operation(require_if_match(request)))
        contract = result.contract
        return Response(
            {
                "edit": self._edits([result.edit])[0],
                "contract": represent(contract, contract.current, self.viewer),
            },
            status=201,
            headers={"ETag": etag(contract.version)},
        )

    @extend_schema(
        request={"application/json": _OPERATION_SCHEMA},
        responses=PreviewSerializer,
        examples=_OPERATION_EXAMPLES,
    )
    @action(detail=True, methods=["post"], query_serializer=None)
    def preview(self, request: Request, pk: Any = None) -> Response:
        """What an operation would do: the same checks and the same result, nothing written."""
        operation = self._operation(None)
        operation.pop("idempotency_key")
        preview = services.preview_edit(**operation)
        before, after = changes(
            shown(preview.before, self.viewer) or {}, shown(preview.after, self.viewer) or {}
        )
        return Response(
            {
                "effective_at": schema.instant(preview.effective_at),
                "before": before,
                "after": after,
                "contract": represent(self.get_object(), preview.after, self.viewer),
            }
        )

    @extend_schema(responses=EditSerializer(many=True))
    @action(detail=True, query_serializer=PageQuery)
    def edits(self, request: Request, pk: Any = None) -> Response:
        """The log, newest first: the edits that changed something which the key sees."""
        contract = self.get_object()
        rows = contract.edits.all()
        if not self.sees_everything:
            rows = rows.filter(seq__in=list(self._seen(contract.pk)))
        return self.get_paginated_response(self._edits(self.paginate_queryset(rows) or []))

    @extend_schema(responses=TimelineSerializer)
    @action(detail=True, query_serializer=KnownQuery)
    def timeline(self, request: Request, pk: Any = None) -> Response:
        """Every instant at which the contract changes, past and planned, with its state from there on."""
        contract = self.get_object()
        edits = services.contract_edits(contract.pk)
        return Response(
            {
                "items": [
                    {
                        "at": schema.instant(step.at),
                        "edits": step.edits,
                        "contract": _document(contract, step.body),
                    }
                    for step in seen_timeline(edits, self.viewer, self.query.get("known_at"))
                ]
            }
        )

    @extend_schema(responses=ContractServiceSerializer)
    @action(detail=True, query_serializer=InstantsQuery)
    def service(self, request: Request, pk: Any = None) -> Response:
        """What its units do, or did at `valid_at` as known at `known_at`; the worst of them for all."""
        contract = self.get_object()
        valid_at, known_at = self.query.get("valid_at", self.at), self.query.get("known_at")
        state = contract.current
        if self.query:
            state = fold.fold(services.contract_edits(contract.pk), valid_at=valid_at, known_at=known_at)
        visible = represent(contract, state, self.viewer)["lines"]
        lines = {UUID(line["line_id"]) for line in visible}
        if self.query:
            found = services.service_at(contract.pk, valid_at=valid_at, known_at=known_at, lines=lines)
        else:
            found = services.service_now(contract.pk, lines)
        return Response(represent_service(contract.pk, found))

    def _seen(self, contract_id: UUID) -> dict[int, Json]:
        return seen_edits(services.contract_edits(contract_id), self.api_key.organization.pk)

    def _edits(self, rows: Sequence[ContractEdit]) -> list[Json]:
        """Rows of one contract's log, without what the key's organization may not read of them."""
        found: list[Json] = [dict(EditSerializer(row).data) for row in rows]
        if self.sees_everything or not rows:
            return found
        contract, seen = rows[0].contract, self._seen(rows[0].contract_id)
        withheld = {"hash": ""}
        if "buyer" not in roles_of(contract.current, self.api_key.organization.pk):
            withheld |= {"actor": "", "reason": ""}
        return [{**edit, "payload": seen[edit["seq"]], **withheld} for edit in found]

    def _operation(self, expected_version: int | None) -> dict[str, Any]:
        """The arguments of `record_edit` that the request stands for."""
        return {
            **self.validated(OperationSerializer),
            "contract_id": self.get_object().pk,
            "actor": self.actor,
            "at": self.at,
            "idempotency_key": f"{self.actor}:{key_of(self.request)}",
            "expected_version": expected_version,
        }


def represent(contract: Contract, state: ContractState, viewer: Viewer) -> Json:
    """The contract with the state of one instant, as the viewer sees it."""
    body = shown(state, viewer) if state.exists else None
    if body is None:
        raise NotFound("The contract did not exist at that instant, or was not known.")
    return _document(contract, body)


def _document(contract: Contract, body: Json) -> Json:
    return {
        "id": str(contract.pk),
        "number": contract.number,
        **body,
        "end_at": body.get("end_at"),
        "lines": list(body["lines"].values()),
        "state_hash": digest({**body, "version": 0}),
    }

"""Contracts over HTTP: create, read at any two instants, record operations, preview them.

What a key sees of a contract is decided in `contracts.rules.visibility`, for every answer here.
"""

from collections.abc import Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from commerce import clock
from commerce.api.etag import etag, require_if_match
from commerce.api.idempotency import key_of
from commerce.api.serializers import InstantField, PageQuery, Query, StrictModelSerializer
from commerce.api.views import CommerceViewSet
from commerce.errors import NotFound
from commerce.parties.models import Organization
from contracts import services
from contracts.api.documents import Documented
from contracts.api.editing import IF_MATCH, OPERATION_SCHEMA, Editing, OperationSerializer
from contracts.api.representations import (
    BilledOtherwiseSerializer,
    ContractSerializer,
    DesiredLinesSerializer,
    DiffSerializer,
    EditSerializer,
    OperationResultSerializer,
    PreviewSerializer,
    billed_otherwise,
    desired_lines,
    document,
    represent,
)
from contracts.api.schedule import Scheduled
from contracts.api.service import ContractServiceSerializer, represent_service
from contracts.models import Contract, ContractEdit
from contracts.rules import fold, schema
from contracts.rules.fold import Edit
from contracts.rules.operations.create import Create
from contracts.rules.state import ContractState, changes
from contracts.rules.visibility import (
    Json,
    Viewer,
    last_instant,
    seen_bills,
    seen_differences,
    seen_edits,
    seen_lines,
    seen_timeline,
    shown,
)

LONGEST = timedelta(days=1100)


class InstantsQuery(Query):
    valid_at = InstantField(required=False, help_text="The state at this instant; now by default.")
    known_at = InstantField(required=False, help_text="As known at this instant; now by default.")


class KnownQuery(Query):
    known_at = InstantField(required=False, help_text="As known at this instant; now by default.")


class TimelineQuery(KnownQuery):
    after = InstantField(required=False, help_text="Only what comes later; `next` says it.")
    page_size = serializers.IntegerField(required=False, min_value=1, max_value=200)


class DiffQuery(Query):
    """Two instants of knowledge, or two versions; `to` is now when it is left out."""

    to = InstantField(required=False, help_text="As known at this instant; now by default.")
    from_version = serializers.IntegerField(required=False, min_value=1)
    to_version = serializers.IntegerField(required=False, min_value=1)

    def get_fields(self) -> dict[str, serializers.Field]:
        """`from` is no name for an attribute."""
        since = InstantField(required=False, help_text="As known at this instant.")
        return {"from": since, **super().get_fields()}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        by_instant, by_version = {"from", "to"} & attrs.keys(), {"from_version", "to_version"} & attrs.keys()
        if by_instant and by_version:
            raise serializers.ValidationError({"from_version": "Give instants or versions, not both."})
        if not {"from", "from_version"} & attrs.keys():
            raise serializers.ValidationError({"from": "Give from or from_version."})
        return attrs


class BillsQuery(KnownQuery):
    start = InstantField(help_text="From this instant.")
    end = InstantField(help_text="Until this instant, at most three years later.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for name in ("start", "end"):
            if not schema.EARLIEST <= attrs[name] <= schema.LATEST:
                raise serializers.ValidationError({name: "The instant must lie between 2000 and 2200."})
        if not timedelta() < attrs["end"] - attrs["start"] <= LONGEST:
            raise serializers.ValidationError({"end": "The end lies after the start, at most three years."})
        return attrs


class ContractQuery(PageQuery):
    status = serializers.ChoiceField(choices=Contract.Status.choices, required=False)
    number = serializers.CharField(required=False, max_length=32)


class ContractSummarySerializer(StrictModelSerializer):
    left_at = serializers.SerializerMethodField(
        help_text="When another took the place of the key's organization, as which the rest of the row is; "
        "null while it has a part."
    )

    class Meta:
        model = Contract
        fields = (
            "id", "number", "status", "version", "buyer_id", "currency", "start_at", "end_at", "next_due_at",
            "left_at",
        )  # fmt: skip
        read_only_fields = fields
        extra_kwargs = {
            "buyer_id": {"allow_null": True, "help_text": "Null for a partner."},
            "next_due_at": {"help_text": "Null for a seller or partner."},
        }

    def get_left_at(self, row: Contract) -> datetime | None:
        until = self._until(row)
        return until + timedelta(microseconds=1) if until else None

    def _until(self, row: Contract) -> datetime | None:
        """The last instant of a party whose place was taken."""
        viewer = self.context["view"].viewer
        return last_instant(row.current, viewer) if viewer in row.former_party_ids else None

    def to_representation(self, row: Contract) -> Json:
        viewer = self.context["view"].viewer
        if until := self._until(row):
            state = fold.fold(services.contract_edits(row.pk), valid_at=until)
            row = copy(row)
            row.status, row.buyer_id, row.end_at, row.next_due_at = (
                state.status, state.buyer_id, state.end_at, None
            )  # fmt: skip
        body = super().to_representation(row)
        if viewer not in ("platform", row.buyer_id):
            body["next_due_at"] = None
            body["buyer_id"] = body["buyer_id"] if until or viewer in row.seller_ids else None
        return body


class InstantStateSerializer(serializers.Serializer):
    at = InstantField()
    edits = serializers.ListField(child=serializers.IntegerField(), help_text="Empty when the clock did it.")
    contract = ContractSerializer()


class TimelineSerializer(serializers.Serializer):
    """A page, oldest first."""

    items = InstantStateSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="What comes later; null at the end.")


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


class ContractViewSet(Editing, Scheduled, Documented, mixins.ListModelMixin, CommerceViewSet):
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

    def instants(self, contract: Contract) -> tuple[datetime | None, datetime | None]:
        """`valid_at` and `known_at` as asked, None for now; its last instant for whose place was taken."""
        last = last_instant(contract.current, self.viewer)
        return self.query.get("valid_at", last), self.query.get("known_at")

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        """By status only for whom the present one is told."""
        if self.action == "list":
            if "status" in self.query and self.viewer != "platform":
                queryset = queryset.filter(pk__in=Contract.objects.of_now(self.viewer).values("pk"))
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
        valid_at, known_at = self.instants(contract)
        if valid_at or known_at:
            state = fold.fold(
                services.contract_edits(contract.pk), valid_at=valid_at or self.at, known_at=known_at
            )
        return Response(represent(contract, state, self.viewer), headers={"ETag": etag(contract.version)})

    @extend_schema(
        request={"application/json": OPERATION_SCHEMA},
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
                "edit": self.shown_edits([result.edit])[0],
                "contract": represent(contract, contract.current, self.viewer),
            },
            status=201,
            headers={"ETag": etag(contract.version)},
        )

    @extend_schema(
        request={"application/json": OPERATION_SCHEMA},
        responses=PreviewSerializer,
        examples=_OPERATION_EXAMPLES,
    )
    @action(detail=True, methods=["post"], query_serializer=None)
    def preview(self, request: Request, pk: Any = None) -> Response:
        """What an operation would do: the same checks and the same result, nothing written."""
        operation = self._operation(None)
        operation.pop("idempotency_key")
        return self.shown_preview(services.preview_edit(**operation))

    def shown_preview(self, preview: services.Preview) -> Response:
        before, after = changes(
            shown(preview.before, self.viewer) or {}, shown(preview.after, self.viewer) or {}
        )
        return Response(
            {
                "effective_at": schema.instant(preview.effective_at),
                "before": before,
                "after": after,
                "contract": represent(self.get_object(), preview.after, self.viewer),
                "bills": BilledOtherwiseSerializer(
                    [
                        billed_otherwise(one, preview.after.currency)
                        for one in seen_bills(preview.bills, self.viewer)
                    ],
                    many=True,
                ).data,
                "approval": preview.approval,
                "warnings": preview.warnings,
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
        return self.get_paginated_response(self.shown_edits(self.paginate_queryset(rows) or []))

    @extend_schema(responses=TimelineSerializer)
    @action(detail=True, query_serializer=TimelineQuery)
    def timeline(self, request: Request, pk: Any = None) -> Response:
        """Every instant at which the contract changes, past and planned, with its state from there on.

        50 on a page, oldest first.
        """
        contract = self.get_object()
        edits = services.contract_edits(contract.pk)
        steps = seen_timeline(edits, self.viewer, self.query.get("known_at"))
        if after := self.query.get("after"):
            steps = [step for step in steps if step.at > after]
        page = steps[: self.query.get("page_size", 50)]
        url = request.build_absolute_uri()
        more = len(page) < len(steps)
        return Response(
            {
                "items": [
                    {
                        "at": schema.instant(step.at),
                        "edits": step.edits,
                        "contract": document(contract, step.body),
                    }
                    for step in page
                ],
                "next": replace_query_param(url, "after", schema.instant(page[-1].at)) if more else None,
            }
        )

    @extend_schema(responses=DiffSerializer)
    @action(detail=True, query_serializer=DiffQuery)
    def diff(self, request: Request, pk: Any = None) -> Response:
        """What was learned between two instants: where in time the contract says something else since."""
        contract = self.get_object()
        edits = services.contract_edits(contract.pk)
        found = seen_differences(edits, self.viewer, *self._ends_of_diff(edits))
        return Response(DiffSerializer({"items": found}).data)

    @extend_schema(responses=DesiredLinesSerializer)
    @action(detail=True, query_serializer=BillsQuery, url_path="desired-lines")
    def desired_lines(self, request: Request, pk: Any = None) -> Response:
        """What should be billed for [start, end): all of it for the buyer, a seller's own lines for him."""
        contract = self.get_object()
        lines = services.desired(
            contract.pk,
            start=self.query["start"],
            end=self.query["end"],
            at=clock.now(),
            known_at=self.query.get("known_at"),
        )
        seen = seen_lines(lines, self.viewer)
        return Response(DesiredLinesSerializer(desired_lines(seen, contract.currency, self.viewer)).data)

    def _ends_of_diff(self, edits: Sequence[Edit]) -> tuple[datetime, datetime | None]:
        """The two instants of knowledge, given as such or as versions."""
        if "from" in self.query:
            return self.query["from"], self.query.get("to")
        learned = {edit.seq: edit.recorded_at for edit in edits}
        found = []
        for name in ("from_version", "to_version"):
            version = self.query.get(name, len(learned))
            if version not in learned:
                raise NotFound(f"The contract has no version {version}.", pointer=f"?{name}")
            found.append(learned[version])
        return found[0], found[1]

    @extend_schema(responses=ContractServiceSerializer)
    @action(detail=True, query_serializer=InstantsQuery)
    def service(self, request: Request, pk: Any = None) -> Response:
        """What its units do, or did at `valid_at` as known at `known_at`; the worst of them for all."""
        contract = self.get_object()
        valid_at, known_at = self.instants(contract)
        then = valid_at or (self.at if known_at else None)
        state = contract.current
        if then:
            state = fold.fold(services.contract_edits(contract.pk), valid_at=then, known_at=known_at)
        visible = represent(contract, state, self.viewer)["lines"]
        lines = {UUID(line["line_id"]) for line in visible}
        if then:
            found = services.service_at(contract.pk, valid_at=then, known_at=known_at, lines=lines)
        else:
            found = services.service_now(contract.pk, lines)
        return Response(represent_service(contract.pk, found))

    def _seen(self, contract_id: UUID) -> dict[int, Json]:
        return seen_edits(services.contract_edits(contract_id), self.api_key.organization.pk)

    def shown_edits(self, rows: Sequence[ContractEdit]) -> list[Json]:
        """Rows of one contract's log, without what the key's organization may not read of them."""
        found: list[Json] = [dict(EditSerializer(row).data) for row in rows]
        if self.sees_everything or not rows:
            return found
        viewer = self.api_key.organization.pk
        edits = services.contract_edits(rows[0].contract_id)
        seen = seen_edits(edits, viewer)
        is_buyer = rows[0].contract.buyer_id == viewer
        steps = [] if is_buyer else fold.timeline(edits)
        bought = {
            row.seq for row in rows if is_buyer or fold.at_instant(steps, row.effective_at).buyer_id == viewer
        }
        return [
            edit
            | {"payload": seen[edit["seq"]], "hash": ""}
            | ({} if edit["seq"] in bought else {"actor": "", "reason": ""})
            for edit in found
        ]

    def shown_contract(self, contract: Contract, state: ContractState) -> Json:
        return represent(contract, state, self.viewer)

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

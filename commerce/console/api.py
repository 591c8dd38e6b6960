"""Exports over HTTP: ask for one, follow it, fetch its file.

A key of the platform may have everything exported, any other only what belongs to its organization;
either also needs the scope of what it exports, e.g. `ledger:read`.
"""

from typing import Any

from django.db.models import QuerySet
from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from commerce.actor import Actor
from commerce.api.serializers import StrictModelSerializer, StrictSerializer
from commerce.api.views import CommerceViewSet
from commerce.console.export_formats import CONTENT_TYPES
from commerce.console.exports import file_of, request_export, sources
from commerce.console.models import Export, ExportFormat


def file_response(export: Export, *, actor: Actor) -> FileResponse:
    """The finished file as a download that nobody on the way keeps."""
    response = FileResponse(
        file_of(export, actor=actor).open("rb"),
        as_attachment=True,
        filename=export.filename,
        content_type=CONTENT_TYPES[export.format],
    )
    response["Cache-Control"] = "no-store"
    return response


class ExportInput(StrictSerializer):
    source = serializers.CharField(max_length=60, help_text="E.g. ledger.entries.")  # type: ignore[assignment]
    format = serializers.ChoiceField(choices=ExportFormat.choices, default=ExportFormat.CSV)
    parameters = serializers.DictField(default=dict, help_text="Depend on the source.")


class ExportOutput(StrictModelSerializer):
    totals = serializers.SerializerMethodField(help_text="Minor units per currency and column.")

    class Meta:
        model = Export
        fields = (
            "id", "source", "format", "parameters", "status", "rows_done", "rows_total", "error", "totals",
            "size", "sha256", "requested_at", "completed_at", "expires_at",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(
        {
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": {"type": "integer"}},
        }
    )
    def get_totals(self, export: Export) -> Any:
        return export.totals


class ExportViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """Files of rows, made by a worker: requested, running, then completed or failed."""

    scope = "exports"
    queryset = Export.objects.all()
    serializer_class = ExportOutput

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(organization=organization)

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        """Totals say as much as rows: exports of what the key may not read are not there."""
        open_ones = [source.name for source in sources() if source.is_open_to(self.actor)]
        return queryset.filter(source__in=open_ones)

    @extend_schema(request=ExportInput, responses={201: ExportOutput})
    def create(self, request: Request) -> Response:
        """Ask for a file. Follow it at its own address until it is completed."""
        export = request_export(
            **self.validated(ExportInput),
            actor=self.actor,
            at=self.at,
            organization_id=None if self.sees_everything else self.api_key.organization_id,
        )
        return Response(ExportOutput(export).data, status=201)

    @extend_schema(
        responses={
            (200, "text/csv"): OpenApiTypes.BINARY,
            (200, "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"): OpenApiTypes.BINARY,
            (200, "application/x-ndjson"): OpenApiTypes.BINARY,
        }
    )
    @action(detail=True, filter_backends=[])
    def file(self, request: Request, pk: str) -> FileResponse:
        """The file of a completed export; 404 before, and after it has expired."""
        return file_response(self.get_object(), actor=self.actor)


router = SimpleRouter()
router.register("exports", ExportViewSet, basename="export")
urlpatterns = router.urls

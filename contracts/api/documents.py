"""A contract as the document that its parties agree to: as JSON, and as PDF with its hash on each page."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from commerce.api.etag import etag
from commerce.api.serializers import InstantField, Query
from contracts.services.documents import as_pdf, contract_document


class PdfRenderer(JSONRenderer):
    """A finished file as it is; a problem stays JSON whatever was asked for."""

    media_type = "application/pdf"
    format = "pdf"

    def render(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return data if isinstance(data, bytes) else super().render(data, *args, **kwargs)


class DocumentQuery(Query):
    valid_at = InstantField(required=False, help_text="The contract at this instant; now by default.")
    known_at = InstantField(required=False, help_text="As known at this instant; now by default.")

    def get_fields(self) -> dict[str, serializers.Field]:
        """`format` is an attribute of serializers' own."""
        told = "Instead of the Accept header."
        format = serializers.ChoiceField(["json", "pdf"], required=False, help_text=told)
        return {**super().get_fields(), "format": format}


class SectionSerializer(serializers.Serializer):
    """A heading over a table: with `columns` one row each, else names and values."""

    title = serializers.CharField()
    columns = serializers.ListField(child=serializers.CharField())
    rows = serializers.ListField(child=serializers.ListField(child=serializers.CharField()))
    note = serializers.CharField(allow_blank=True)


class DocumentSerializer(serializers.Serializer):
    """What was agreed, in words, as far as the key may read it."""

    number = serializers.CharField()
    title = serializers.CharField()
    status = serializers.CharField()
    version = serializers.IntegerField()
    valid_at = InstantField()
    known_at = InstantField(allow_null=True, help_text="Null for all that is known now.")
    sha256 = serializers.CharField(help_text="Of what is agreed and shown; neither status nor signatures.")
    sections = SectionSerializer(many=True)


class Documented:
    """The document's action of the contracts' view set."""

    @extend_schema(
        responses={
            (200, "application/json"): DocumentSerializer,
            (200, "application/pdf"): OpenApiTypes.BINARY,
        }
    )
    @action(detail=True, query_serializer=DocumentQuery, renderer_classes=[JSONRenderer, PdfRenderer])
    def document(self: Any, request: Request, pk: Any = None) -> Response:
        """The contract in words at an instant, as JSON or, with `Accept: application/pdf`, as a file."""
        contract = self.get_object()
        valid_at, known_at = self.instants(contract)
        found = contract_document(
            contract=contract,
            valid_at=valid_at or (self.at if known_at else None),
            known_at=known_at,
            viewer=self.viewer,
        )
        headers = {"ETag": etag(contract.version)}
        if self.query.get("format", request.accepted_renderer.format) == "json":
            request.accepted_renderer, request.accepted_media_type = JSONRenderer(), "application/json"
            return Response(DocumentSerializer(found).data, headers=headers)
        request.accepted_renderer, request.accepted_media_type = PdfRenderer(), PdfRenderer.media_type
        name = f"{found.number}-{found.sha256[:8]}.pdf"
        headers |= {"Content-Disposition": f'inline; filename="{name}"', "X-Content-SHA256": found.sha256}
        return Response(as_pdf(found), headers=headers)

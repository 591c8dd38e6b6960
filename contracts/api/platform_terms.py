"""The platform's terms over HTTP, for its own keys, read-only: two people change them in the console."""

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from commerce.api.serializers import InstantField, Query, StrictModelSerializer
from commerce.api.views import CommerceViewSet
from contracts.models import PlatformTerms
from contracts.rules import schema
from contracts.rules.platform import PlatformDefaults
from contracts.services.terms import version_at


class AtQuery(Query):
    at = InstantField(required=False, help_text="What was or will be in force then; now by default.")


@extend_schema_field(schema.describe(PlatformDefaults))
class SectionsField(serializers.JSONField):
    """What a contract gets where it says nothing, and the limits of recording."""


class PlatformTermsSerializer(StrictModelSerializer):
    sections = SectionsField()
    approval_id = serializers.UUIDField(allow_null=True, help_text="Null for the first version.")

    class Meta:
        model = PlatformTerms
        fields = (
            "id", "version", "effective_at", "sections", "reason", "made_by", "approved_by", "approval_id",
            "recorded_at", "prev_hash", "hash",
        )  # fmt: skip
        read_only_fields = fields


class PlatformTermsViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """Every version of what contracts get where they say nothing."""

    scope = "contracts"
    queryset = PlatformTerms.objects.all()
    serializer_class = PlatformTermsSerializer
    lookup_field = "version"

    @extend_schema(responses=PlatformTermsSerializer)
    @action(detail=False, query_serializer=AtQuery)
    def current(self, request: Request) -> Response:
        """The version in force."""
        found = version_at(self.query.get("at", self.at))
        return Response(self.get_serializer(get_object_or_404(self.get_queryset(), pk=found.pk)).data)

"""Organizations over HTTP: the platform registers them, each sees itself and adds its bank accounts."""

from typing import Any

from django.db import models
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from commerce.api.serializers import PageQuery, StrictModelSerializer, StrictSerializer
from commerce.api.views import CommerceViewSet
from commerce.errors import PermissionDenied
from commerce.parties import services
from commerce.parties.models import Onboarding, Organization, ProviderReference, Role
from commerce.parties.vault import ACCOUNT_TYPES, ROUTING_NUMBERS, BankAccount


class BankAccountInput(StrictSerializer):
    """Passed on to the bank and forgotten; later only the last four digits are shown."""

    account_number = serializers.CharField(write_only=True, max_length=64)
    routing_number = serializers.CharField(write_only=True, max_length=32)
    routing_number_type = serializers.ChoiceField(choices=list(ROUTING_NUMBERS), default="aba")
    account_type = serializers.ChoiceField(choices=ACCOUNT_TYPES, default="checking")
    holder_name = serializers.CharField(
        required=False, max_length=200, help_text="The organization's name when it is left out."
    )


class OrganizationInput(StrictSerializer):
    name = serializers.CharField(max_length=200)
    roles = serializers.ListField(
        child=serializers.ChoiceField(choices=[role for role in Role.values if role != Role.PLATFORM]),
        min_length=1,
    )
    country = serializers.CharField(min_length=2, max_length=2)
    currency = serializers.CharField(min_length=3, max_length=3)
    email = serializers.EmailField(required=False, default="")
    slug = serializers.SlugField(required=False, max_length=80, help_text="Made of the name when left out.")
    bank_account = BankAccountInput(required=False)


class OrganizationOutput(StrictModelSerializer):
    missing = serializers.SerializerMethodField(help_text="What must exist before it becomes active.")
    email = serializers.CharField(read_only=True, help_text="Empty when there is none.")

    class Meta:
        model = Organization
        fields = (
            "id",
            "name",
            "slug",
            "roles",
            "onboarding_status",
            "missing",
            "country",
            "currency",
            "email",
            "registered_at",
        )
        read_only_fields = fields

    def get_missing(self, organization: Organization) -> list[str]:
        settled = organization.onboarding_status not in (Onboarding.REGISTERED, Onboarding.VERIFYING)
        return [] if settled else services.missing(organization)


class ReferenceOutput(StrictModelSerializer):
    last4 = serializers.CharField(source="details.last4", default="")
    bank_name = serializers.CharField(source="details.bank_name", default="")

    class Meta:
        model = ProviderReference
        fields = (
            "id",
            "provider",
            "kind",
            "reference",
            "provider_id",
            "status",
            "last4",
            "bank_name",
            "last_error",
            "requested_at",
            "activated_at",
        )
        read_only_fields = fields


class OrganizationQuery(PageQuery):
    role = serializers.ChoiceField(choices=Role.choices, required=False)
    onboarding_status = serializers.ChoiceField(choices=Onboarding.choices, required=False)


class OrganizationViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """Buyers, sellers and partners."""

    scope = "organizations"
    queryset = Organization.objects.all()
    serializer_class = OrganizationOutput
    query_serializer = OrganizationQuery

    def visible(self, queryset: models.QuerySet, organization: Organization) -> models.QuerySet:
        return queryset.filter(pk=organization.pk)

    def filter_queryset(self, queryset: models.QuerySet) -> models.QuerySet:
        if self.action == "list":
            if role := self.query.get("role"):
                queryset = queryset.filter(roles__contains=[role])
            if status := self.query.get("onboarding_status"):
                queryset = queryset.filter(onboarding_status=status)
        return super().filter_queryset(queryset)

    @extend_schema(request=OrganizationInput, responses={201: OrganizationOutput})
    def create(self, request: Request) -> Response:
        """Register an organization. Its accounts at the bank are made within seconds; see `missing`."""
        if not self.sees_everything:
            raise PermissionDenied("Only the platform registers organizations.")
        data = self.validated(OrganizationInput)
        bank_account = data.pop("bank_account", None)
        organization = services.register_organization(
            **data,
            bank_account=BankAccount(**bank_account) if bank_account else None,
            actor=self.actor,
            at=self.at,
        )
        return Response(OrganizationOutput(organization).data, status=201)

    @extend_schema(request=BankAccountInput, responses={201: ReferenceOutput})
    @action(detail=True, methods=["post"], url_path="bank-accounts", query_serializer=None)
    def bank_accounts(self, request: Request, pk: Any = None) -> Response:
        """Add a bank account to be paid to. Once the bank has accepted it, it replaces the one before."""
        reference = services.add_bank_account(
            organization=self.get_object(),
            bank_account=BankAccount(**self.validated(BankAccountInput)),
            actor=self.actor,
            at=self.at,
        )
        return Response(ReferenceOutput(reference).data, status=201)

    @extend_schema(responses=ReferenceOutput(many=True))
    @action(detail=True, query_serializer=PageQuery)
    def references(self, request: Request, pk: Any = None) -> Response:
        """What the providers keep for an organization, newest first."""
        page = self.paginate_queryset(self.get_object().references.all())
        return self.get_paginated_response(ReferenceOutput(page, many=True).data)


router = SimpleRouter()
router.register("organizations", OrganizationViewSet, basename="organization")
urlpatterns = router.urls

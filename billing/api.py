"""Billing over HTTP: usage in; invoices, billing accounts and pay-ins out; accepting a differing invoice."""

import re
from decimal import Decimal
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, inline_serializer
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from billing import services
from billing.models import BillingAccount, BillingStatus, Invoice, InvoiceLine, InvoiceStatus, PayIn
from billing.services.usage import Reading
from commerce.api.serializers import (
    InstantField,
    MoneyField,
    PageQuery,
    StrictModelSerializer,
    StrictSerializer,
)
from commerce.api.views import CommerceViewSet
from commerce.errors import NotFound, PermissionDenied
from contracts.models import Contract

_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class UsageData(StrictSerializer):
    line_id = serializers.UUIDField()
    quantity = serializers.CharField(
        max_length=40, help_text="A decimal string in the product's unit, for example device-hours."
    )


class UsageEventInput(StrictSerializer):
    """A CloudEvent 1.0. Its id and source identify it for good."""

    specversion = serializers.ChoiceField(["1.0"])
    id = serializers.CharField(max_length=200)
    source = serializers.CharField(max_length=200)  # type: ignore[assignment]
    type = serializers.CharField(
        max_length=80, required=False, help_text="The line's meter; checked if given."
    )
    time = InstantField()
    data = UsageData()  # type: ignore[assignment]


class UsageInput(StrictSerializer):
    contract_id = serializers.UUIDField()
    events = serializers.ListField(child=UsageEventInput(), min_length=1, max_length=1000)


class UsageViewSet(CommerceViewSet):
    """Metered usage of a contract's usage lines."""

    scope = "usage"
    serializer_class = UsageInput
    queryset = Contract.objects.all()

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        """A seller meters its own servers; a buyer does not write its own bill."""
        return queryset.filter(seller_ids__contains=[organization.id])

    @extend_schema(
        responses={
            202: inline_serializer(
                "UsageAccepted",
                {
                    "accepted": serializers.IntegerField(),
                    "duplicates": serializers.IntegerField(),
                    "batch_id": serializers.UUIDField(allow_null=True),
                },
            )
        },
        examples=[
            OpenApiExample(
                "An hour on eight devices",
                request_only=True,
                value={
                    "contract_id": "01960000-0000-7000-8000-000000000001",
                    "events": [
                        {
                            "specversion": "1.0",
                            "id": "meter-7-2027-03-02T10",
                            "source": "brokkr/eu-1",
                            "time": "2027-03-02T11:00:00Z",
                            "data": {"line_id": "01960000-0000-7000-8000-000000000002", "quantity": "8.0"},
                        }
                    ],
                },
            )
        ],
    )
    def create(self, request: Request) -> Response:
        """Accept usage, all of it or none; events that were accepted before are counted as duplicates."""
        body = self.validated(UsageInput)
        contract = self.get_queryset().filter(pk=body["contract_id"]).first()
        if contract is None:
            raise NotFound("There is no such contract.", pointer="/contract_id")
        accepted = services.accept_usage(
            contract_id=contract.id,
            readings=[_reading(event) for event in body["events"]],
            actor=self.actor,
            at=self.at,
        )
        return Response(
            {
                "accepted": accepted.accepted,
                "duplicates": accepted.duplicates,
                "batch_id": str(accepted.batch_id) if accepted.batch_id else None,
            },
            status=202,
        )


def _reading(event: dict[str, Any]) -> Reading:
    text = event["data"]["quantity"]
    return Reading(
        event_id=event["id"],
        source=event["source"],
        line_id=event["data"]["line_id"],
        time=event["time"],
        quantity=Decimal(text) if _DECIMAL.fullmatch(text) else Decimal("NaN"),
        meter=event.get("type", ""),
    )


class InvoiceLineOutput(StrictModelSerializer):
    net = MoneyField(minor="net_minor", currency="invoice.currency")
    tax = MoneyField(minor="tax_minor", currency="invoice.currency")

    class Meta:
        model = InvoiceLine
        fields = ("line_id", "product", "kind", "seller_id", "quantity", "rate", "start", "end", "net", "tax")


class InvoiceOutput(StrictModelSerializer):
    net = MoneyField(minor="net_minor")
    tax = MoneyField(minor="tax_minor")
    total = MoneyField(minor="total_minor")
    paid = MoneyField(minor="paid_minor")
    provider_net = MoneyField(minor="provider_net_minor")

    class Meta:
        model = Invoice
        fields = (
            "id",
            "number",
            "contract_id",
            "buyer_id",
            "status",
            "period_start",
            "period_end",
            "net",
            "tax",
            "total",
            "paid",
            "verified_at",
            "differences",
            "issued_at",
            "due_at",
            "paid_at",
            "transaction_id",
            "provider",
            "provider_id",
            "provider_status",
            "provider_net",
        )


class InvoiceDetail(InvoiceOutput):
    lines = InvoiceLineOutput(many=True)

    class Meta:
        model = Invoice
        fields = (*InvoiceOutput.Meta.fields, "lines")


class InvoiceQuery(PageQuery):
    contract_id = serializers.UUIDField(required=False)
    status = serializers.ChoiceField(InvoiceStatus.choices, required=False)


class Acceptance(StrictSerializer):
    reason = serializers.CharField(max_length=500)


class InvoiceViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """What buyers owe."""

    scope = "invoices"
    queryset = Invoice.objects.select_related("contract")
    query_serializer = InvoiceQuery

    def get_serializer_class(self) -> type[serializers.BaseSerializer]:
        return InvoiceOutput if self.action == "list" else InvoiceDetail

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(buyer=organization)

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        wanted = {name: self.query[name] for name in ("contract_id", "status") if name in self.query}
        return queryset.filter(**wanted)

    @extend_schema(request=Acceptance, responses=InvoiceDetail)
    @action(detail=True, methods=["post"])
    def accept(self, request: Request, pk: str) -> Response:
        """Decide that our rating is owed although the provider's invoice differs. Platform keys only."""
        if not self.sees_everything:
            raise PermissionDenied("Only the platform accepts a differing invoice.")
        body = self.validated(Acceptance)
        invoice = services.accept_invoice(
            invoice=self.get_object(), actor=self.actor, at=self.at, reason=body["reason"]
        )
        return Response(InvoiceDetail(invoice).data)


class BillingAccountOutput(StrictModelSerializer):
    downpayment = MoneyField(minor="downpayment_minor")
    downpayment_wanted = MoneyField(minor="downpayment_wanted_minor")
    committed = MoneyField(minor="committed_minor")
    committed_wanted = MoneyField(minor="committed_wanted_minor")
    subscription = serializers.SerializerMethodField()

    class Meta:
        model = BillingAccount
        fields = (
            "id",
            "contract_id",
            "owner_epoch",
            "buyer_id",
            "currency",
            "billing_status",
            "status_since",
            "next_check_at",
            "downpayment",
            "downpayment_wanted",
            "committed",
            "committed_wanted",
            "invoiced_through",
            "subscription",
        )

    @extend_schema(
        responses=inline_serializer(
            "SubscriptionState",
            {
                "provider_id": serializers.CharField(),
                "desired_version": serializers.IntegerField(),
                "applied_version": serializers.IntegerField(),
                "ended_at": serializers.DateTimeField(allow_null=True),
                "checked_at": serializers.DateTimeField(allow_null=True, required=False),
                "drift": inline_serializer(
                    "SubscriptionDrift",
                    {
                        "what": serializers.CharField(),
                        "reasons": serializers.ListField(
                            child=serializers.CharField(), help_text="Why it was to be expected, if it was."
                        ),
                        "line_id": serializers.UUIDField(allow_null=True, required=False),
                        "ours_minor": serializers.IntegerField(required=False),
                        "theirs_minor": serializers.IntegerField(required=False),
                    },
                    many=True,
                    required=False,
                ),
            },
        )
    )
    def get_subscription(self, account: BillingAccount) -> dict[str, Any] | None:
        """How far OpenMeter has followed the contract; null before it is activated.

        The platform also reads what differed when both were last compared.
        """
        syncs = account.contract.subscription_syncs.all()
        whose = (account.buyer_id, account.turn)
        sync = next((one for one in syncs if (one.buyer_id, one.turn) == whose), None)
        if sync is None:
            return None
        compared = {"checked_at": sync.checked_at, "drift": sync.drift}
        return {
            "provider_id": sync.subscription_id,
            "desired_version": sync.desired_version,
            "applied_version": sync.applied_version,
            "ended_at": sync.ended_at,
            **(compared if self.context["view"].sees_everything else {}),
        }


class BillingAccountQuery(PageQuery):
    contract_id = serializers.UUIDField(required=False)
    billing_status = serializers.ChoiceField(BillingStatus.choices, required=False)


class BillingAccountViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """The billing side of each contract: its status, and what is set aside for it."""

    scope = "invoices"
    queryset = BillingAccount.objects.select_related("contract").prefetch_related(
        "contract__subscription_syncs"
    )
    serializer_class = BillingAccountOutput
    query_serializer = BillingAccountQuery

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(buyer=organization)

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        wanted = {name: self.query[name] for name in ("contract_id", "billing_status") if name in self.query}
        return queryset.filter(**wanted)


class PayInOutput(StrictModelSerializer):
    amount = MoneyField(minor="amount_minor")

    class Meta:
        model = PayIn
        fields = (
            "id",
            "buyer_id",
            "provider",
            "provider_id",
            "rail",
            "amount",
            "status",
            "completed_at",
            "transaction_id",
        )


class PayInViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """Money that entered wallets."""

    scope = "wallets"
    queryset = PayIn.objects.all()
    serializer_class = PayInOutput

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(buyer=organization)


router = SimpleRouter()
router.register("usage-events", UsageViewSet, basename="usage")
router.register("invoices", InvoiceViewSet, basename="invoice")
router.register("billing-accounts", BillingAccountViewSet, basename="billing-account")
router.register("pay-ins", PayInViewSet, basename="pay-in")
urlpatterns = router.urls

"""Settlements, payouts and payee policies over HTTP. A payee sees what is its own, nobody else's."""

from typing import Any

from django.db.models import Prefetch, QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from commerce.api.serializers import (
    InstantField,
    MoneyField,
    PageQuery,
    StrictModelSerializer,
    StrictSerializer,
    WholeNumberField,
)
from commerce.api.views import CommerceViewSet
from commerce.console.approvals_api import ApprovalOutput
from commerce.errors import FieldError, InvalidInput, NotFound, PermissionDenied
from commerce.money import CURRENCIES, MAX_MINOR
from commerce.parties.models import Organization
from payouts import services
from payouts.models import PayeePolicy, Payout, PayoutItem, Settlement, SettlementLeg
from payouts.rules.splits import settlement_status

ITEMS = Prefetch("items", PayoutItem.objects.select_related("payout").order_by("id"))
UUID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


class LegPayoutOutput(serializers.Serializer):
    """A payout that pays a leg, or did and came back."""

    id = serializers.UUIDField(source="payout.id")
    status = serializers.ChoiceField(source="payout.status", choices=Payout.Status.choices)
    amount = MoneyField(minor="amount_minor", currency="payout.currency")
    attempt = serializers.IntegerField(source="payout.attempt")
    provider_id = serializers.CharField(source="payout.provider_id")
    provider_status = serializers.CharField(source="payout.provider_status")
    last_error = serializers.CharField(source="payout.last_error")
    next_poll_at = InstantField(source="payout.next_poll_at", allow_null=True)


class LegOutput(StrictModelSerializer):
    amount = MoneyField(minor="amount_minor")
    payouts = LegPayoutOutput(source="items", many=True)

    class Meta:
        model = SettlementLeg
        fields = (
            "id", "settlement_id", "kind", "payee_id", "amount", "status", "releasable_at", "released_at",
            "payouts",
        )  # fmt: skip
        read_only_fields = fields


class LegsOutput(serializers.Serializer):
    items = LegOutput(many=True)


class SettlementOutput(StrictModelSerializer):
    """For a payee, `total` and `status` are those of its own legs, and the buyer is not named."""

    status = serializers.ChoiceField(source="seen_status", choices=Settlement.Status.choices)
    buyer_id = serializers.UUIDField(source="seen_buyer_id", allow_null=True)
    total = MoneyField(minor="seen_total_minor")
    legs = LegOutput(source="seen_legs", many=True)

    class Meta:
        model = Settlement
        fields = (
            "id", "invoice_id", "invoice_number", "contract_id", "contract_number", "buyer_id", "status",
            "total", "paid_at", "seasoning_days", "legs",
        )  # fmt: skip
        read_only_fields = fields

    def to_representation(self, row: Any) -> dict[str, Any]:
        whole = self.context["view"].sees_everything
        legs = row.seen_legs
        row.seen_status = row.status if whole else settlement_status((leg.kind, leg.status) for leg in legs)
        row.seen_buyer_id = row.buyer_id if whole else None
        row.seen_total_minor = sum(leg.amount_minor for leg in legs)
        return super().to_representation(row)


class SettlementQuery(PageQuery):
    contract_id = serializers.UUIDField(required=False)
    invoice_id = serializers.UUIDField(required=False)


class SettlementViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """The journeys of paid invoices to their payees."""

    scope = "settlements"
    queryset = Settlement.objects.all()
    serializer_class = SettlementOutput
    query_serializer = SettlementQuery

    def visible(self, queryset: QuerySet, organization: Organization) -> QuerySet:
        legs = SettlementLeg.objects.filter(payee=organization)
        return queryset.filter(pk__in=legs.values("settlement"))

    def get_queryset(self) -> QuerySet:
        return super().get_queryset().prefetch_related(Prefetch("legs", self._legs(), to_attr="seen_legs"))

    def _legs(self) -> QuerySet:
        legs = SettlementLeg.objects.order_by("id").prefetch_related(ITEMS)
        if getattr(self, "swagger_fake_view", False) or self.sees_everything:
            return legs
        return legs.filter(payee=self.api_key.organization)

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        if self.action == "list":
            names = ("contract_id", "invoice_id")
            queryset = queryset.filter(**{name: self.query[name] for name in names if name in self.query})
        return super().filter_queryset(queryset)

    @extend_schema(responses=LegsOutput)
    @action(detail=True, query_serializer=None)
    def legs(self, request: Request, pk: Any = None) -> Response:
        """Where each leg stands; cheap enough to poll."""
        return Response(LegsOutput({"items": self.get_object().seen_legs}).data)

    @extend_schema(request=None, responses={202: LegOutput})
    @action(
        detail=True, methods=["post"], url_path=f"legs/(?P<leg_id>{UUID_PATTERN})/poll", query_serializer=None
    )
    def poll(self, request: Request, pk: Any = None, leg_id: str = "") -> Response:
        """Ask the bank soon about the payouts of a leg. The answer comes with a later look at the leg."""
        leg = next((leg for leg in self.get_object().seen_legs if str(leg.pk) == leg_id), None)
        if leg is None:
            raise NotFound("The settlement has no such leg.")
        for item in leg.items.all():
            services.request_poll(payout=item.payout, actor=self.actor, at=self.at)
        fresh = self._legs().get(pk=leg.pk)
        return Response(LegOutput(fresh).data, status=202)


class PayoutItemOutput(StrictModelSerializer):
    settlement_id = serializers.UUIDField(source="leg.settlement_id")
    amount = MoneyField(minor="amount_minor", currency="leg.currency")

    class Meta:
        model = PayoutItem
        fields = ("leg_id", "settlement_id", "amount")
        read_only_fields = fields


class PayoutOutput(StrictModelSerializer):
    amount = MoneyField(minor="amount_minor")
    account_last4 = serializers.CharField(source="account.details.last4", default="")
    items = PayoutItemOutput(many=True)

    class Meta:
        model = Payout
        fields = (
            "id", "payee_id", "amount", "status", "attempt", "account_id", "account_last4", "external_id",
            "provider_id", "provider_status", "approval_reason", "failure_code", "failure_reason",
            "requested_at", "approved_at", "submitted_at", "paid_at", "failed_at", "returned_at",
            "next_poll_at", "items",
        )  # fmt: skip
        read_only_fields = fields


class PayoutInput(StrictSerializer):
    """Either an amount, or a currency to pay out all that is payable in it."""

    payee_id = serializers.UUIDField(required=False, help_text="The key's own organization by default.")
    amount = MoneyField(required=False, minimum=1)
    currency = serializers.ChoiceField(required=False, choices=sorted(CURRENCIES))
    reason = serializers.CharField(required=False, default="", allow_blank=True, max_length=500)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("amount" in attrs) == ("currency" in attrs):
            raise serializers.ValidationError(
                "Give an amount or a currency, not both.", code="amount_or_currency"
            )
        return attrs


class ReasonInput(StrictSerializer):
    reason = serializers.CharField(max_length=500)


class PayoutQuery(PageQuery):
    status = serializers.ChoiceField(choices=Payout.Status.choices, required=False)
    payee_id = serializers.UUIDField(required=False)


class PayoutViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """Money on its way to payees' bank accounts."""

    scope = "payouts"
    action_scopes = {"approve": "payouts:approve", "reject": "payouts:approve"}
    queryset = Payout.objects.select_related("account").prefetch_related(
        Prefetch("items", PayoutItem.objects.select_related("leg").order_by("id"))
    )
    serializer_class = PayoutOutput
    query_serializer = PayoutQuery

    def visible(self, queryset: QuerySet, organization: Organization) -> QuerySet:
        return queryset.filter(payee=organization)

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        if self.action == "list":
            names = ("status", "payee_id")
            queryset = queryset.filter(**{name: self.query[name] for name in names if name in self.query})
        return super().filter_queryset(queryset)

    @extend_schema(
        request=PayoutInput,
        responses={201: PayoutOutput},
        examples=[OpenApiExample("All that is payable", value={"currency": "USD"}, request_only=True)],
    )
    def create(self, request: Request) -> Response:
        """Request a payout. Large ones, new bank accounts and requests for others wait for approval."""
        data = self.validated(PayoutInput)
        amount = data.get("amount")
        payout = services.request_payout(
            payee=self._payee(data.get("payee_id")),
            currency=amount.currency if amount else data["currency"],
            amount=amount,
            actor=self.actor,
            at=self.at,
            reason=data["reason"],
        )
        return self._show(payout, status=201)

    def _payee(self, payee_id: Any) -> Organization:
        own = self.api_key.organization
        payee = Organization.objects.filter(pk=payee_id or own.pk).first()
        if payee is None or (payee != own and not self.sees_everything) or not payee.is_payee:
            error = FieldError("/payee_id", "unknown_payee", "There is no such payee.")
            raise InvalidInput(error.detail, code=error.code, errors=[error])
        return payee

    def _show(self, payout: Payout, status: int = 200) -> Response:
        return Response(self.get_serializer(self.get_queryset().get(pk=payout.pk)).data, status=status)

    @extend_schema(request=ReasonInput, responses=PayoutOutput)
    @action(detail=True, methods=["post"], query_serializer=None)
    def approve(self, request: Request, pk: Any = None) -> Response:
        """Agree to a payout that somebody else requested."""
        reason = self.validated(ReasonInput)["reason"]
        return self._show(
            services.approve_payout(payout=self.get_object(), actor=self.actor, at=self.at, reason=reason)
        )

    @extend_schema(request=ReasonInput, responses=PayoutOutput)
    @action(detail=True, methods=["post"], query_serializer=None)
    def reject(self, request: Request, pk: Any = None) -> Response:
        """Refuse a payout that waits for approval; its money is payable again."""
        reason = self.validated(ReasonInput)["reason"]
        return self._show(
            services.reject_payout(payout=self.get_object(), actor=self.actor, at=self.at, reason=reason)
        )

    @extend_schema(request=ReasonInput, responses=PayoutOutput)
    @action(detail=True, methods=["post"], query_serializer=None)
    def cancel(self, request: Request, pk: Any = None) -> Response:
        """Withdraw a payout that has not been sent; its money is payable again."""
        reason = self.validated(ReasonInput)["reason"]
        return self._show(
            services.cancel_payout(payout=self.get_object(), actor=self.actor, at=self.at, reason=reason)
        )

    @extend_schema(request=ReasonInput, responses={201: ApprovalOutput})
    @action(detail=True, methods=["post"], url_path="giving-up-requests", query_serializer=None)
    def giving_up_requests(self, request: Request, pk: str) -> Response:
        """Ask that a payout the bank does not know is given up, by a second person in the console. Platform
        keys only."""
        if not self.sees_everything:
            raise PermissionDenied("Only the platform asks for payouts to be given up.")
        reason = self.validated(ReasonInput)["reason"]
        approval = services.request_giving_up(
            payout=self.get_object(), actor=self.actor, at=self.at, reason=reason
        )
        return Response(ApprovalOutput(approval).data, status=201)

    @extend_schema(request=None, responses={202: PayoutOutput})
    @action(detail=True, methods=["post"], query_serializer=None)
    def poll(self, request: Request, pk: Any = None) -> Response:
        """Ask the bank soon."""
        payout = self.get_object()
        services.request_poll(payout=payout, actor=self.actor, at=self.at)
        return self._show(payout, status=202)


class PolicyOutput(StrictModelSerializer):
    cadence = serializers.ChoiceField(choices=["", *PayeePolicy.Cadence.values], read_only=True)

    class Meta:
        model = PayeePolicy
        fields = ("organization_id", "mode", "cadence", "day", "minimum_minor", "due_at", "blocked_reason")
        read_only_fields = fields


class PolicyInput(StrictSerializer):
    mode = serializers.ChoiceField(choices=PayeePolicy.Mode.choices)
    cadence = serializers.ChoiceField(choices=PayeePolicy.Cadence.choices, required=False, default="")
    day = WholeNumberField(
        required=False,
        default=None,
        min_value=1,
        max_value=31,
        help_text="Weekly: 1 Monday to 7 Sunday. Monthly: day of the month.",
    )
    minimum_minor = WholeNumberField(required=False, default=0, min_value=0, max_value=MAX_MINOR)


class PolicyViewSet(CommerceViewSet):
    """How each seller and partner is paid."""

    scope = "payouts"
    queryset = Organization.objects.filter(roles__overlap=["seller", "partner"])
    serializer_class = PolicyOutput

    def visible(self, queryset: QuerySet, organization: Organization) -> QuerySet:
        return queryset.filter(pk=organization.pk)

    @extend_schema(responses=PolicyOutput)
    def retrieve(self, request: Request, pk: Any = None) -> Response:
        """The payee's policy; `pk` is the organization's id."""
        payee = self.get_object()
        policy = PayeePolicy.objects.filter(organization=payee).first() or PayeePolicy(organization=payee)
        return Response(PolicyOutput(policy).data)

    @extend_schema(request=PolicyInput, responses=PolicyOutput)
    def update(self, request: Request, pk: Any = None) -> Response:
        """Replace the policy. Automatic pays at once what is already payable."""
        terms = self.validated(PolicyInput)
        policy = services.set_policy(
            organization=self.get_object(), **terms, actor=self.actor, at=self.at, reason="API"
        )
        return Response(PolicyOutput(policy).data)


router = SimpleRouter()
router.register("settlements", SettlementViewSet, basename="settlement")
router.register("payouts", PayoutViewSet, basename="payout")
router.register("payout-policies", PolicyViewSet, basename="payout-policy")
urlpatterns = router.urls

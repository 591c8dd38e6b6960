"""The ledger over HTTP: accounts with balances, statements, transactions, wallets; asking for a reversal.

Keys of the platform see everything; an organization sees the accounts it owns, the transactions
that touch them, and of those only its own legs.
"""

from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    extend_schema,
    extend_schema_field,
    extend_schema_serializer,
)
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from commerce.api.pagination import IdCursorPagination
from commerce.api.serializers import (
    InstantField,
    MoneyField,
    PageQuery,
    Query,
    StrictModelSerializer,
    StrictSerializer,
    WholeNumberField,
)
from commerce.api.views import CommerceViewSet
from commerce.console.approvals_api import ApprovalOutput
from commerce.errors import PermissionDenied
from commerce.money import MAX_MINOR, Money
from commerce.parties.models import Organization
from ledger import services
from ledger.models import LedgerAccount, LedgerEntry, LedgerHold, LedgerPeriod, LedgerSeal, LedgerTransaction
from ledger.rules.kinds import WALLET, AccountClass, Kind, Side


class AsOfQuery(Query):
    at = InstantField(required=False, help_text="Balances as of this business instant instead of now.")
    known_at = InstantField(required=False, help_text="Only what had been recorded by this instant.")


class AccountQuery(AsOfQuery, PageQuery):
    owner_id = serializers.UUIDField(required=False)
    kind = serializers.ChoiceField(choices=[str(kind) for kind in Kind], required=False)
    currency = serializers.CharField(required=False, max_length=3)


class TransactionQuery(PageQuery):
    owner_id = serializers.UUIDField(required=False, help_text="With a leg on this owner's accounts.")
    source = serializers.CharField(required=False, max_length=120)  # type: ignore[assignment]
    recipe = serializers.CharField(required=False, max_length=60)
    key = serializers.CharField(required=False, max_length=200)


class AccountSerializer(StrictSerializer):
    """Balances are counted on the account's normal side."""

    id = serializers.IntegerField(source="account.pk")
    owner_id = serializers.UUIDField(source="account.owner_id")
    kind = serializers.ChoiceField(source="account.kind", choices=[str(kind) for kind in Kind])
    account_class = serializers.ChoiceField(
        source="account.account_class", choices=[str(c) for c in AccountClass]
    )
    normal_side = serializers.CharField(source="account.normal", help_text="debit or credit")
    currency = serializers.CharField(source="account.currency")
    posted = MoneyField(help_text="The sum of all entries.")
    pending = MoneyField(help_text="What posted becomes when every pending transaction is settled.")
    available = MoneyField(help_text="Posted less what pending transactions set aside.")


class StatementLineSerializer(StrictSerializer):
    transaction_id = serializers.UUIDField(source="entry.transaction_id")
    recipe = serializers.CharField(source="entry.transaction.recipe")
    explanation = serializers.CharField(source="entry.transaction.explanation")
    description = serializers.CharField(source="entry.transaction.description")
    source = serializers.CharField(source="entry.transaction.source")  # type: ignore[assignment]
    effective_at = InstantField(source="entry.effective_at")
    recorded_at = InstantField(source="entry.recorded_at")
    amount = MoneyField(help_text="On the account's normal side: negative takes away.")
    balance = MoneyField(help_text="After this entry, in the order of business time.")


class LegSerializer(StrictSerializer):
    account_id = serializers.IntegerField()
    owner_id = serializers.UUIDField(source="account.owner_id")
    kind = serializers.ChoiceField(source="account.kind", choices=[str(kind) for kind in Kind])
    normal_side = serializers.CharField(source="account.normal", help_text="debit or credit")
    side = serializers.SerializerMethodField()
    amount = serializers.SerializerMethodField()

    @extend_schema_field(serializers.ChoiceField(choices=[str(side) for side in Side]))
    def get_side(self, leg: LedgerEntry | LedgerHold) -> str:
        return str(Side.CREDIT if leg.amount > 0 else Side.DEBIT)

    @extend_schema_field(MoneyField)
    def get_amount(self, leg: LedgerEntry | LedgerHold) -> Any:
        return MoneyField().to_representation(Money(abs(leg.amount), leg.account.currency))


class TransactionSerializer(StrictModelSerializer):
    explanation = serializers.CharField(read_only=True)
    entries = serializers.SerializerMethodField(help_text="What it moved, or sets aside while it is pending.")

    class Meta:
        model = LedgerTransaction
        fields = (
            "id",
            "key",
            "status",
            "source",
            "recipe",
            "explanation",
            "description",
            "effective_at",
            "recorded_at",
            "reverses_id",
            "resolves_id",
            "entries",
        )

    @extend_schema_field(LegSerializer(many=True))
    def get_entries(self, row: LedgerTransaction) -> Any:
        legs = row.holds if row.status == LedgerTransaction.Status.PENDING else row.entries
        return LegSerializer(legs.all(), many=True).data


class PartInput(StrictSerializer):
    account_id = WholeNumberField(min_value=1, max_value=MAX_MINOR)
    amount = MoneyField(minimum=1)


class ReversalInput(StrictSerializer):
    """All that is left of the transaction, or parts that balance."""

    reason = serializers.CharField(max_length=300, help_text="The description of the reversal.")
    parts = serializers.ListField(child=PartInput(), required=False, min_length=1, max_length=200)


class WalletSerializer(StrictSerializer):
    """One currency of a wallet."""

    currency = serializers.CharField()
    available = MoneyField(help_text="Free to spend.")
    committed = MoneyField(help_text="Set aside for what contracts expect in their period.")
    committed_downpayment = MoneyField(help_text="Set aside as downpayment; drawn first.")


class WalletsSerializer(StrictSerializer):
    organization_id = serializers.UUIDField()
    wallets = WalletSerializer(many=True)


class StatementPagination(IdCursorPagination):
    ordering = ("-effective_at", "-recorded_at", "-stripe", "-version")  # type: ignore[assignment]
    offset_cutoff = None  # type: ignore[assignment]  # many entries may have one instant

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        page = super().get_paginated_response_schema(schema)
        page["required"] = [*page["required"], "begins_at"]
        page["properties"]["begins_at"] = {
            "type": "string",
            "format": "date-time",
            "nullable": True,
            "description": "Older entries are archived; null while none is.",
        }
        return page


class AccountViewSet(mixins.ListModelMixin, CommerceViewSet):
    """Ledger accounts with their balances, now or as of an instant."""

    scope = "ledger"
    queryset = services.with_balances(LedgerAccount.objects.select_related("owner"))
    serializer_class = AccountSerializer
    query_serializer = AccountQuery

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(owner=organization)

    def declared_query(self) -> type[Query] | None:
        return AsOfQuery if self.action == "retrieve" else super().declared_query()

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        chosen = {name: self.query[name] for name in ("owner_id", "kind", "currency") if name in self.query}
        return queryset.filter(**chosen)

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        if page is None or self.action != "list":
            return page
        return services.account_balances(page, **self._instants())

    def _instants(self) -> dict[str, Any]:
        return {name: self.query.get(name) for name in ("at", "known_at")}

    def retrieve(self, request: Request, pk: str) -> Response:
        (found,) = services.account_balances([self.get_object()], **self._instants())
        return Response(AccountSerializer(found).data)

    @extend_schema(responses=StatementLineSerializer(many=True))
    @action(detail=True, query_serializer=PageQuery, pagination_class=StatementPagination, filter_backends=[])
    def statement(self, request: Request, pk: str) -> Response:
        """The account's entries, newest first, each with the balance after it, back to `begins_at`."""
        account = self.get_object()
        page = self.paginate_queryset(services.entries_of(account)) or []
        lines = services.statement_lines(account, page)
        response = self.get_paginated_response(StatementLineSerializer(lines, many=True).data)
        first = services.begins(account)
        response.data["begins_at"] = InstantField().to_representation(first) if first else None
        return response


class TransactionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """Ledger transactions with their legs, each with its recipe's explanation."""

    scope = "ledger"
    queryset = LedgerTransaction.objects.all()
    serializer_class = TransactionSerializer
    query_serializer = TransactionQuery

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(_touching(organization.pk))

    def get_queryset(self) -> QuerySet:
        queryset = super().get_queryset()
        for name, model in (("entries", LedgerEntry), ("holds", LedgerHold)):
            legs = model.objects.select_related("account").order_by("account", "pk")
            if not getattr(self, "swagger_fake_view", False) and not self.sees_everything:
                legs = legs.filter(account__owner=self.api_key.organization)
            queryset = queryset.prefetch_related(Prefetch(name, legs))
        return queryset

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        if self.action != "list":
            return queryset
        chosen = {name: self.query[name] for name in ("source", "recipe", "key") if name in self.query}
        if owner_id := self.query.get("owner_id"):
            queryset = queryset.filter(_touching(owner_id))
        return queryset.filter(**chosen)

    @extend_schema(request=ReversalInput, responses={201: ApprovalOutput})
    @action(detail=True, methods=["post"], url_path="reversal-requests", query_serializer=None)
    def reversal_requests(self, request: Request, pk: str) -> Response:
        """Ask for a reversal, which a second person approves in the console. Platform keys only."""
        if not self.sees_everything:
            raise PermissionDenied("Only the platform asks for reversals.")
        body = self.validated(ReversalInput)
        parts = body.get("parts")
        approval = services.request_reversal(
            transaction=self.get_object(),
            parts=None if parts is None else [services.Part(**part) for part in parts],
            reason=body["reason"],
            actor=self.actor,
            at=self.at,
        )
        return Response(ApprovalOutput(approval).data, status=201)


def _touching(owner_id: UUID) -> Q:
    """Transactions with an entry or a hold on one of the owner's accounts."""
    legs = [
        Exists(model.objects.filter(transaction=OuterRef("pk"), account__owner=owner_id))
        for model in (LedgerEntry, LedgerHold)
    ]
    return Q(legs[0]) | Q(legs[1])


class SealSerializer(StrictModelSerializer):
    previous = serializers.SerializerMethodField(
        help_text="The hash of the seal before it; empty at the first."
    )
    hash = serializers.SerializerMethodField(help_text="SHA-256 in hexadecimal: keep it elsewhere.")

    class Meta:
        model = LedgerSeal
        fields = ("number", "until", "transactions", "entries", "previous", "hash", "sealed_at")

    def get_previous(self, row: LedgerSeal) -> str:
        return bytes(row.previous).hex()

    def get_hash(self, row: LedgerSeal) -> str:
        return bytes(row.hash).hex()


class SealPagination(IdCursorPagination):
    ordering = "-number"


class SealViewSet(mixins.ListModelMixin, CommerceViewSet):
    """The chain of seals over everything recorded, newest first; only the platform sees it."""

    scope = "ledger"
    queryset = LedgerSeal.objects.defer("members")
    serializer_class = SealSerializer
    pagination_class = SealPagination


class PeriodSerializer(StrictModelSerializer):
    class Meta:
        model = LedgerPeriod
        fields = ("id", "starts_on", "ends_on", "status")
        extra_kwargs = {"ends_on": {"help_text": "The first day after it."}}


class PeriodPagination(IdCursorPagination):
    ordering = "-starts_on"


class PeriodViewSet(mixins.ListModelMixin, CommerceViewSet):
    """Accounting periods, newest first; only the platform sees them."""

    scope = "ledger"
    queryset = LedgerPeriod.objects.all()
    serializer_class = PeriodSerializer
    pagination_class = PeriodPagination


class TrialBalanceQuery(AsOfQuery):
    by = serializers.ChoiceField(choices=["kind", "class", "owner"], default="kind")
    currency = serializers.CharField(required=False, max_length=3)


class TrialRowSerializer(StrictSerializer):
    key = serializers.CharField(help_text="Kind, class or owner's id.")
    name = serializers.CharField(source="label")
    currency = serializers.CharField()
    accounts = serializers.IntegerField()
    debit = MoneyField(help_text="The sum of the accounts that stand in debit.")
    credit = MoneyField(help_text="The sum of the accounts that stand in credit.")
    balance = MoneyField(help_text="On the group's normal side; of an owner, what it is owed.")


class TrialTotalSerializer(StrictSerializer):
    debit = MoneyField()
    credit = MoneyField(help_text="Equal to debit, unless only one organization's accounts are seen.")


@extend_schema_serializer(many=False)
class TrialBalanceSerializer(StrictSerializer):
    rows = TrialRowSerializer(many=True)
    totals = TrialTotalSerializer(many=True, help_text="One per currency.")


class TrialBalanceViewSet(CommerceViewSet):
    """Every balance on the side where it stands, now or at two instants, summed by group."""

    scope = "ledger"
    queryset = LedgerAccount.objects.all()
    serializer_class = TrialBalanceSerializer
    pagination_class = None

    def declared_query(self) -> type[Query] | None:
        return TrialBalanceQuery

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(owner=organization)

    @extend_schema(responses=TrialBalanceSerializer)
    def list(self, request: Request) -> Response:
        """The trial balance; an organization's has only its own accounts."""
        owner = None if self.sees_everything else self.api_key.organization_id
        trial = services.trial_balance(owner=owner, **self.query)
        return Response(TrialBalanceSerializer(trial).data)


class WalletViewSet(CommerceViewSet):
    """What a buyer can spend and what is set aside, per currency."""

    scope = "wallets"
    queryset = Organization.objects.all()
    serializer_class = WalletsSerializer
    lookup_url_kwarg = "organization_id"

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(pk=organization.pk)

    @extend_schema(parameters=[OpenApiParameter("organization_id", OpenApiTypes.UUID, OpenApiParameter.PATH)])
    def retrieve(self, request: Request, organization_id: str) -> Response:
        organization = self.get_object()
        held = {
            (found.account.currency, found.account.kind): found.available
            for found in services.balances(owner=organization.pk, kinds=WALLET)
        }
        currencies = sorted({organization.currency, *(currency for currency, _ in held)})
        wallets = [
            {
                "currency": currency,
                **{kind.lower(): held.get((currency, kind), Money.zero(currency)) for kind in WALLET},
            }
            for currency in currencies
        ]
        return Response(WalletsSerializer({"organization_id": organization.pk, "wallets": wallets}).data)


router = SimpleRouter()
router.register("ledger/accounts", AccountViewSet, basename="ledger-account")
router.register("ledger/transactions", TransactionViewSet, basename="ledger-transaction")
router.register("ledger/seals", SealViewSet, basename="ledger-seal")
router.register("ledger/periods", PeriodViewSet, basename="ledger-period")
router.register("ledger/trial-balance", TrialBalanceViewSet, basename="ledger-trial-balance")
router.register("wallets", WalletViewSet, basename="wallet")
urlpatterns = router.urls

"""The ledger over HTTP: accounts, statements, transactions, trial balance, periods, seals, wallets.

Keys of the platform see everything; an organization sees the accounts it owns, the transactions
that touch them, and of those only its own legs. The platform can ask for a reversal.
"""

from typing import Any
from uuid import UUID

from django.contrib.postgres.expressions import ArraySubquery
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
from rest_framework.utils.urls import replace_query_param

from commerce.api.pagination import IdCursorPagination
from commerce.api.problems import Invalid
from commerce.api.serializers import (
    InstantField,
    LedgerMoneyField,
    PageQuery,
    Query,
    StrictModelSerializer,
    StrictSerializer,
    WholeNumberField,
)
from commerce.api.views import CommerceViewSet
from commerce.console.approvals_api import ApprovalOutput
from commerce.errors import FieldError, InvalidInput, PermissionDenied
from commerce.money import CURRENCIES, MAX_MINOR, STABLECOINS, Money
from commerce.parties.models import Organization
from ledger import services
from ledger.models import LedgerAccount, LedgerEntry, LedgerHold, LedgerPeriod, LedgerSeal, LedgerTransaction
from ledger.rules.kinds import WALLET, AccountClass, Kind, Side
from ledger.services.exports import KnownQuery, PeriodQuery

_CURRENCIES = sorted(CURRENCIES | STABLECOINS)


class AsOfQuery(Query):
    at = InstantField(required=False, help_text="Balances as of this business instant instead of now.")
    known_at = InstantField(required=False, help_text="Only what had been recorded by this instant.")


class AccountQuery(AsOfQuery, PageQuery):
    owner_id = serializers.UUIDField(required=False)
    kind = serializers.ChoiceField(choices=[str(kind) for kind in Kind], required=False)
    currency = serializers.ChoiceField(choices=_CURRENCIES, required=False)


class StatementQuery(PeriodQuery, KnownQuery, PageQuery):
    """`since` is included, `until` is not; both are business time."""


class TransactionQuery(PeriodQuery, PageQuery):
    by = serializers.ChoiceField(
        choices=["effective", "recorded"],
        default="effective",
        help_text="Which instant since and until are about.",
    )
    status = serializers.ChoiceField(choices=LedgerTransaction.Status.choices, required=False)
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
    posted = LedgerMoneyField(help_text="The sum of all entries.")
    pending = LedgerMoneyField(help_text="What posted becomes when every pending transaction is settled.")
    available = LedgerMoneyField(help_text="Posted less what pending transactions set aside.")


class StatementLineSerializer(StrictSerializer):
    transaction_id = serializers.UUIDField(source="entry.transaction_id")
    recipe = serializers.CharField(source="entry.transaction.recipe")
    explanation = serializers.CharField(source="entry.transaction.explanation")
    description = serializers.CharField(source="entry.transaction.description")
    source = serializers.CharField(source="entry.transaction.source")  # type: ignore[assignment]
    effective_at = InstantField(source="entry.effective_at")
    recorded_at = InstantField(source="entry.recorded_at")
    amount = LedgerMoneyField(help_text="On the account's normal side: negative takes away.")
    balance = LedgerMoneyField(help_text="After this entry, in the order of business time.")


class StatementSerializer(StrictSerializer):
    """A page, newest first; `opening` and `closing` are those of all that was asked for."""

    items = StatementLineSerializer(source="lines", many=True)
    next = serializers.SerializerMethodField(help_text="The older entries; null at the end.")
    opening = LedgerMoneyField(help_text="Just before since, or before the first entry.")
    closing = LedgerMoneyField(help_text="Just before until, or now.")
    begins_at = InstantField(
        source="begins", allow_null=True, help_text="Older entries are archived: it opens here instead."
    )

    @extend_schema_field({"type": "string", "format": "uri", "nullable": True})
    def get_next(self, page: services.Statement) -> str | None:
        url = self.context["request"].build_absolute_uri()
        return replace_query_param(url, "cursor", str(page.before)) if page.before else None


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

    @extend_schema_field(LedgerMoneyField)
    def get_amount(self, leg: LedgerEntry | LedgerHold) -> Any:
        return LedgerMoneyField().to_representation(Money(abs(leg.amount), leg.account.currency))


class TransactionSerializer(StrictModelSerializer):
    explanation = serializers.CharField(read_only=True)
    reversal_ids = serializers.ListField(
        child=serializers.UUIDField(), read_only=True, help_text="The transactions that reverse it."
    )
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
            "adjusts_period_id",
            "meant_at",
            "reverses_id",
            "reversal_ids",
            "resolves_id",
            "entries",
        )

    @extend_schema_field(LegSerializer(many=True))
    def get_entries(self, row: LedgerTransaction) -> Any:
        legs = row.holds if row.status == LedgerTransaction.Status.PENDING else row.entries
        return LegSerializer(legs.all(), many=True).data


class PartInput(StrictSerializer):
    account_id = WholeNumberField(min_value=1, max_value=MAX_MINOR)
    amount = LedgerMoneyField(minimum=1)


class ReversalInput(StrictSerializer):
    """All that is left of the transaction, or parts that balance."""

    reason = serializers.CharField(max_length=300, help_text="The description of the reversal.")
    parts = serializers.ListField(child=PartInput(), required=False, min_length=1, max_length=200)


class WalletSerializer(StrictSerializer):
    """One currency of a wallet."""

    currency = serializers.CharField()
    available = LedgerMoneyField(help_text="Free to spend.")
    committed = LedgerMoneyField(help_text="Set aside for what contracts expect in their period.")
    committed_downpayment = LedgerMoneyField(help_text="Set aside as downpayment; drawn first.")


class WalletsSerializer(StrictSerializer):
    organization_id = serializers.UUIDField()
    wallets = WalletSerializer(many=True)


class AccountViewSet(mixins.ListModelMixin, CommerceViewSet):
    """Ledger accounts with their balances, now or as of an instant."""

    scope = "ledger"
    read_problems = ("409",)  # what the answer needs is archived
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

    @extend_schema(responses=StatementSerializer)
    @action(detail=True, query_serializer=StatementQuery, pagination_class=None, filter_backends=[])
    def statement(self, request: Request, pk: str) -> Response:
        """The account's entries, newest first, with the balance after each; what they open and close with."""
        page = services.statement(
            account=self.get_object(),
            before=_place(self.query["cursor"]) if "cursor" in self.query else None,
            limit=self.query.get("page_size", services.PAGE),
            **{name: self.query.get(name) for name in ("since", "until", "known_at")},
        )
        return Response(StatementSerializer(page, context=self.get_serializer_context()).data)


def _place(cursor: str) -> services.Place:
    try:
        return services.Place.parse(cursor)
    except InvalidInput as error:
        raise Invalid([FieldError("?cursor", error.code, "The cursor is not one of ours.")]) from error


class TransactionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """Ledger transactions with their legs, each with its recipe's explanation."""

    scope = "ledger"
    queryset = LedgerTransaction.objects.all()
    serializer_class = TransactionSerializer
    query_serializer = TransactionQuery

    def visible(self, queryset: QuerySet, organization: Any) -> QuerySet:
        return queryset.filter(_touching(organization.pk))

    def get_queryset(self) -> QuerySet:
        queryset, reversals = (
            super().get_queryset(),
            LedgerTransaction.objects.filter(reverses=OuterRef("pk")),
        )
        if not getattr(self, "swagger_fake_view", False) and not self.sees_everything:
            reversals = self.visible(reversals, self.api_key.organization)
        queryset = queryset.annotate(reversal_ids=ArraySubquery(reversals.order_by("pk").values("pk")))
        for name, model in (("entries", LedgerEntry), ("holds", LedgerHold)):
            legs = model.objects.select_related("account").order_by("account", "pk")
            if not getattr(self, "swagger_fake_view", False) and not self.sees_everything:
                legs = legs.filter(account__owner=self.api_key.organization)
            queryset = queryset.prefetch_related(Prefetch(name, legs))
        return queryset

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        if self.action != "list":
            return queryset
        instant = f"{self.query['by']}_at"
        columns = {name: name for name in ("status", "source", "recipe", "key")}
        columns |= {"since": f"{instant}__gte", "until": f"{instant}__lt"}
        chosen = {column: self.query[name] for name, column in columns.items() if name in self.query}
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
    currency = serializers.ChoiceField(choices=_CURRENCIES, required=False)


class TrialRowSerializer(StrictSerializer):
    key = serializers.CharField(help_text="Kind, class or owner's id.")
    name = serializers.CharField(source="label")
    currency = serializers.CharField()
    accounts = serializers.IntegerField()
    debit = LedgerMoneyField(help_text="The sum of the accounts that stand in debit.")
    credit = LedgerMoneyField(help_text="The sum of the accounts that stand in credit.")
    balance = LedgerMoneyField(help_text="On the group's normal side; of an owner, what it is owed.")


class TrialTotalSerializer(StrictSerializer):
    debit = LedgerMoneyField()
    credit = LedgerMoneyField(help_text="Equal to debit, unless only one organization's accounts are seen.")


@extend_schema_serializer(many=False)
class TrialBalanceSerializer(StrictSerializer):
    rows = TrialRowSerializer(many=True)
    totals = TrialTotalSerializer(many=True, help_text="One per currency.")


class TrialBalanceViewSet(CommerceViewSet):
    """Every balance on the side where it stands, now or at two instants, summed by group."""

    scope = "ledger"
    read_problems = ("409",)
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

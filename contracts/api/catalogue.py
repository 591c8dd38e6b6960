"""The catalogue over HTTP: products, what sellers ask for them, and offers by the list.

Sellers see their own offers whole; everybody sees live ones, with what is free of them.
"""

from typing import Any

from django.db.models import Q, QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from commerce.api.serializers import PageQuery, StrictModelSerializer, StrictSerializer, WholeNumberField
from commerce.api.views import CommerceViewSet
from commerce.parties.models import Organization
from contracts import services
from contracts.models import Offer, Product
from contracts.rules import schema
from contracts.rules.offers import MAX_CAPACITY, NewOffer, OfferTerms
from contracts.rules.state import Price
from contracts.services.admission import pointing
from contracts.services.catalog_files import MAX_ROWS_IN_A_REQUEST, Row
from contracts.services.catalog_import import import_catalogue, preview_import

_OFFER = {
    "code": "h100-monthly",
    "product": "h100-server",
    "currency": "USD",
    "price": {
        "model": "graduated",
        "tiers": [{"up_to": "10", "rate": "18000.00"}, {"up_to": None, "rate": "17000.00"}],
    },
    "capacity": 40,
    "valid_to": "2028-01-01T00:00:00Z",
    "min_term_months": 6,
}
_EXAMPLE = [OpenApiExample("Forty servers, cheaper from the eleventh on", value=_OFFER, request_only=True)]
_NEW_OFFER = schema.describe(NewOffer)
_ROW = {
    **_NEW_OFFER,
    "properties": {
        **_NEW_OFFER["properties"],
        "seller": {"type": "string", "description": "The seller's slug, instead of its id."},
    },
    "required": ["code"],
}
_IMPORT = {
    "type": "object",
    "properties": {
        "offers": {"type": "array", "items": _ROW, "minItems": 1, "maxItems": MAX_ROWS_IN_A_REQUEST},
        "publish": {"type": "boolean", "default": False},
        "dry_run": {"type": "boolean", "default": False},
    },
    "required": ["offers"],
    "additionalProperties": False,
}
_CHANGES = {name: value for name, value in schema.describe(OfferTerms).items() if name != "required"}


class OfferQuery(PageQuery):
    product = serializers.CharField(required=False, max_length=60, help_text="A product's code.")
    seller_id = serializers.UUIDField(required=False)
    currency = serializers.CharField(required=False, min_length=3, max_length=3)
    status = serializers.ChoiceField(choices=Offer.Status.choices, required=False)
    code = serializers.CharField(required=False, max_length=60, help_text="The seller's name for it.")


class ProductSerializer(StrictModelSerializer):
    class Meta:
        model = Product
        fields = ("id", "code", "name", "description", "kind", "unit", "meter", "active")


@extend_schema_field(schema.describe(Price))
class PriceField(serializers.JSONField):
    """As in a contract's line."""


class OfferSerializer(StrictModelSerializer):
    seller_id = serializers.UUIDField()
    product = serializers.CharField(source="product.code", help_text="Its code.")
    price = PriceField()
    supersedes_id = serializers.UUIDField(allow_null=True, help_text="The version before.")
    capacity = serializers.SerializerMethodField(
        help_text="Units in all, of all versions together; null for no limit, and for others than the seller."
    )
    held = serializers.SerializerMethodField(help_text="Of contracts not signed yet; for the seller.")
    committed = serializers.SerializerMethodField(help_text="Of signed contracts; for the seller.")
    free = serializers.IntegerField(source="stock.free", allow_null=True, help_text="Null for no limit.")

    class Meta:
        model = Offer
        fields = (
            "id", "code", "version", "status", "seller_id", "product", "currency", "price", "capacity",
            "held", "committed", "free", "valid_from", "valid_to", "min_term_months", "sla_policy",
            "tax_code", "terms", "supersedes_id", "created_at", "published_at", "withdrawn_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_capacity(self, offer: Offer) -> int | None:
        return offer.stock.capacity if self._is_own(offer) else None

    def get_held(self, offer: Offer) -> int | None:
        return offer.stock.held if self._is_own(offer) else None

    def get_committed(self, offer: Offer) -> int | None:
        return offer.stock.committed if self._is_own(offer) else None

    def _is_own(self, offer: Offer) -> bool:
        view = self.context["view"]
        return view.sees_everything or offer.seller_id == view.api_key.organization.pk


class WithdrawInput(StrictSerializer):
    reason = serializers.CharField(max_length=500)


class CapacityInput(StrictSerializer):
    capacity = WholeNumberField(
        min_value=0, max_value=MAX_CAPACITY, allow_null=True, help_text="Null for no limit."
    )


class ImportInput(StrictSerializer):
    offers = serializers.ListField(
        child=serializers.DictField(),
        min_length=1,
        max_length=MAX_ROWS_IN_A_REQUEST,
        error_messages={
            "max_length": "At most {max_length} rows a request; larger lists are files for contracts_import."
        },
    )
    publish = serializers.BooleanField(default=False)
    dry_run = serializers.BooleanField(default=False)


class ImportedRow(serializers.Serializer):
    row = serializers.IntegerField(help_text="Place in `offers`, from 0.")
    code = serializers.CharField()
    what = serializers.ChoiceField(["added", "changed", "unchanged"])
    fields = serializers.ListField(child=serializers.CharField(), help_text="What it changed.")  # type: ignore[assignment]
    seller = serializers.CharField(help_text="The seller's slug.")
    version = serializers.IntegerField(allow_null=True, help_text="The version that it leads to.")
    published = serializers.BooleanField()


class ImportedSerializer(serializers.Serializer):
    dry_run = serializers.BooleanField()
    added = serializers.IntegerField()
    changed = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    rows = ImportedRow(many=True)


class ProductViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """What can be rented, the same for everyone."""

    scope = "contracts"
    queryset = Product.objects.all()
    serializer_class = ProductSerializer

    def visible(self, queryset: QuerySet, organization: Organization) -> QuerySet:
        return queryset


class OfferViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """What sellers ask for products. A version is never rewritten: another price is another version."""

    scope = "contracts"
    queryset = Offer.objects.select_related("product", "stock")
    serializer_class = OfferSerializer
    query_serializer = OfferQuery

    def visible(self, queryset: QuerySet, organization: Organization) -> QuerySet:
        return queryset.filter(Q(status=Offer.Status.LIVE) | Q(seller=organization))

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        if self.action == "list":
            columns = {"product": "product__code"}
            names = ("product", "seller_id", "currency", "status", "code")
            queryset = queryset.filter(
                **{columns.get(name, name): self.query[name] for name in names if name in self.query}
            )
        return super().filter_queryset(queryset)

    @extend_schema(
        request={"application/json": _NEW_OFFER}, responses={201: OfferSerializer}, examples=_EXAMPLE
    )
    def create(self, request: Request) -> Response:
        """Make an offer, as a draft."""
        offer = services.create_offer(payload=request.data, actor=self.actor, at=self.at)
        return self._answer_with(offer, status=201)

    @extend_schema(request=None, responses=OfferSerializer)
    @action(detail=True, methods=["post"], query_serializer=None)
    def publish(self, request: Request, pk: Any = None) -> Response:
        """Let lines be sold on it; the version that was live until now is withdrawn."""
        offer = services.publish_offer(offer_id=self.get_object().pk, actor=self.actor, at=self.at)
        return self._answer_with(offer)

    @extend_schema(request=WithdrawInput, responses=OfferSerializer)
    @action(detail=True, methods=["post"], query_serializer=None)
    def withdraw(self, request: Request, pk: Any = None) -> Response:
        """Sell no more lines on it; those that were sold or hold units go on."""
        offer = services.withdraw_offer(
            offer_id=self.get_object().pk, **self.validated(WithdrawInput), actor=self.actor, at=self.at
        )
        return self._answer_with(offer)

    @extend_schema(request={"application/json": _CHANGES}, responses={201: OfferSerializer})
    @action(detail=True, methods=["post"], query_serializer=None)
    def revisions(self, request: Request, pk: Any = None) -> Response:
        """Make the next version, a draft, with the fields that are sent changed."""
        offer = services.revise_offer(
            offer_id=self.get_object().pk, changes=request.data, actor=self.actor, at=self.at
        )
        return self._answer_with(offer, status=201)

    @extend_schema(request=CapacityInput, responses=OfferSerializer)
    @action(detail=True, methods=["post"], query_serializer=None)
    def capacity(self, request: Request, pk: Any = None) -> Response:
        """Have another number of units in all, for every version together."""
        offer = self.get_object()
        services.set_capacity(
            offer_id=offer.pk, **self.validated(CapacityInput), actor=self.actor, at=self.at
        )
        return self._answer_with(offer)

    @extend_schema(request={"application/json": _IMPORT}, responses={200: ImportedSerializer})
    @action(detail=False, methods=["post"], query_serializer=None)
    def imports(self, request: Request) -> Response:
        """Bring offers to what a list says, all of it or none; what is so already stays as it is.

        A row with a new code adds an offer, one with another price or other terms makes the next version.
        What a row leaves out is left alone. At most 500 rows a request; larger lists are imported by command.
        """
        data = self.validated(ImportInput)
        work = preview_import if data["dry_run"] else import_catalogue
        with pointing("/offers"):
            result = work(
                kind="offers",
                rows=[Row(number, values) for number, values in enumerate(data["offers"])],
                actor=self.actor,
                at=self.at,
                publish=data["publish"],
            )
        body = {"dry_run": data["dry_run"], **result.to_json()}
        return Response(ImportedSerializer(body).data)

    def _answer_with(self, offer: Offer, status: int = 200) -> Response:
        fresh = Offer.objects.select_related("product", "stock").get(pk=offer.pk)
        return Response(self.get_serializer(fresh).data, status=status)

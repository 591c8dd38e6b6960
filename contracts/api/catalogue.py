"""The catalogue over HTTP: what can be rented out."""

from django.db.models import QuerySet
from rest_framework import mixins

from commerce.api.serializers import StrictModelSerializer
from commerce.api.views import CommerceViewSet
from commerce.parties.models import Organization
from contracts.models import Product


class ProductSerializer(StrictModelSerializer):
    class Meta:
        model = Product
        fields = ("id", "code", "name", "kind", "unit", "meter", "active")


class ProductViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """The catalogue, the same for everyone."""

    scope = "contracts"
    queryset = Product.objects.all()
    serializer_class = ProductSerializer

    def visible(self, queryset: QuerySet, organization: Organization) -> QuerySet:
        return queryset

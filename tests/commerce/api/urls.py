"""A small resource over review items, so that the API's base is tested through HTTP and real tables."""

import time
from typing import Any

from django.db import OperationalError, connection, models
from django.urls import include, path
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from commerce.api.etag import etag, require_if_match
from commerce.api.serializers import (
    InstantField,
    MoneyField,
    PageQuery,
    StrictModelSerializer,
    StrictSerializer,
    WholeNumberField,
)
from commerce.api.views import CommerceViewSet
from commerce.console.models import ReviewItem
from commerce.console.services import open_review
from commerce.errors import InsufficientFunds, Retryable, VersionConflict


class ThingQuery(PageQuery):
    kind = serializers.CharField(required=False)


class LineInput(StrictSerializer):
    quantity = WholeNumberField(min_value=1)


class ThingInput(StrictSerializer):
    kind = serializers.CharField(max_length=60)
    price = MoneyField(minimum=1)
    due_at = InstantField(required=False)
    lines = LineInput(many=True, required=False)


class ThingOutput(StrictModelSerializer):
    value = MoneyField(minor="value_minor")

    class Meta:
        model = ReviewItem
        fields = ("id", "kind", "opened_at", "value")


class ThingViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    scope = "contracts"
    action_scopes = {"approve": "payouts:approve"}
    queryset = ReviewItem.objects.all()
    serializer_class = ThingOutput
    query_serializer = ThingQuery

    def visible(self, queryset: models.QuerySet, organization: Any) -> models.QuerySet:
        return queryset.filter(subject_id=str(organization.pk))

    def create(self, request: Request) -> Response:
        data = self.validated(ThingInput)
        item = open_review(
            kind=data["kind"],
            subject_type="parties.organization",
            subject_id=self.api_key.organization_id,
            title="A thing",
            value=data["price"],
            actor=self.actor,
            at=self.at,
        )
        if data["kind"] == "slow":
            time.sleep(0.3)
        failures = {
            "poor": InsufficientFunds("Not enough.", balance_minor=5),
            "away": Retryable("The bank is away."),
            "bug": ZeroDivisionError("secret detail"),
        }
        if data["kind"] in failures:
            raise failures[data["kind"]]
        return Response(ThingOutput(item).data, status=201, headers={"ETag": etag(1)})

    @action(detail=True, methods=["post"])
    def change(self, request: Request, pk: str) -> Response:
        self.get_object()
        if require_if_match(request) != 1:
            raise VersionConflict("The thing is at version 1.")
        return Response({})

    @action(detail=False, methods=["post"])
    def approve(self, request: Request) -> Response:
        return Response({"actor": str(self.actor), "may": self.actor.has_perm("console.resolve_reviewitem")})

    @action(detail=False, methods=["post"])
    def deadlock(self, request: Request) -> Response:
        """Meets one deadlock per kind: what the database says when two transactions wait for each other."""
        self.losses = getattr(self, "losses", 0) + 1
        if self.losses <= int(request.data["losses"]):
            with connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$")
        return Response({"attempts": self.losses})

    @action(detail=False, methods=["get"])
    def away(self, request: Request) -> Response:
        raise OperationalError("could not connect to 10.0.0.1")


router = SimpleRouter()
router.register("things", ThingViewSet, "thing")
urlpatterns = [path("api/v1/", include(router.urls)), path("", include("commerce.urls"))]
handler404 = "commerce.api.problems.not_found"

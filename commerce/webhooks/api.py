"""Webhook endpoints over HTTP: an organization keeps its own, looks into their log and sends again."""

import json
from typing import Any

from django.db import models
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from commerce.api.etag import etag, require_if_match
from commerce.api.serializers import InstantField, PageQuery, Query, StrictModelSerializer, StrictSerializer
from commerce.api.views import CommerceViewSet
from commerce.parties.models import Organization
from commerce.webhooks import event_types, services
from commerce.webhooks.models import (
    DisabledBecause,
    EndpointStatus,
    WebhookAttempt,
    WebhookEndpoint,
    WebhookMessage,
)

IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    required=True,
    description="The ETag that the change is based on.",
)
STATUSES = ("pending", "delivered", "failed", "cancelled")
_COLUMNS = {
    "pending": "due_at", "delivered": "delivered_at", "failed": "failed_at", "cancelled": "cancelled_at",
}  # fmt: skip


class EndpointInput(StrictSerializer):
    url = serializers.CharField(max_length=500, help_text="https, on the public internet.")
    event_types = serializers.ListField(
        child=serializers.CharField(max_length=80),
        min_length=1,
        max_length=event_types.MOST_PATTERNS,
        help_text="Types such as invoice.paid, all of a kind as invoice.*, or everything as *.",
    )
    description = serializers.CharField(required=False, allow_blank=True, max_length=200, default="")


class EndpointChange(StrictSerializer):
    url = serializers.CharField(required=False, max_length=500)
    event_types = serializers.ListField(
        child=serializers.CharField(max_length=80),
        required=False,
        min_length=1,
        max_length=event_types.MOST_PATTERNS,
    )
    description = serializers.CharField(required=False, allow_blank=True, max_length=200)


class EndpointOutput(StrictModelSerializer):
    organization_id = serializers.UUIDField()
    description = serializers.CharField(read_only=True, help_text="Empty when there is none.")
    disabled_because = serializers.ChoiceField(choices=["", *DisabledBecause.values], read_only=True)
    failing_since = InstantField(
        source="health.failing_since", allow_null=True, help_text="First failure after the last success."
    )
    last_success_at = InstantField(source="health.last_success_at", allow_null=True)
    version = serializers.IntegerField(help_text="The ETag.")

    class Meta:
        model = WebhookEndpoint
        fields = (
            "id",
            "organization_id",
            "url",
            "event_types",
            "description",
            "status",
            "disabled_because",
            "disabled_at",
            "failing_since",
            "last_success_at",
            "version",
            "created_at",
        )
        read_only_fields = fields


class EndpointWithSecret(EndpointOutput):
    secret = serializers.CharField(
        allow_null=True, help_text="Shown once; null when the answer is repeated under its Idempotency-Key."
    )

    class Meta(EndpointOutput.Meta):
        fields: Any = (*EndpointOutput.Meta.fields, "secret")
        read_only_fields: Any = fields


class MessageOutput(StrictModelSerializer):
    webhook_id = serializers.CharField(help_text="As in the header; the same for every attempt.")
    endpoint_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=STATUSES)
    next_attempt_at = InstantField(source="due_at", allow_null=True)
    last_error = serializers.CharField(read_only=True, help_text="Empty when there is none.")

    class Meta:
        model = WebhookMessage
        fields = (
            "id",
            "webhook_id",
            "endpoint_id",
            "event_id",
            "type",
            "status",
            "attempts",
            "next_attempt_at",
            "delivered_at",
            "failed_at",
            "last_error",
            "created_at",
        )
        read_only_fields = fields


class MessageWithBody(MessageOutput):
    body = serializers.SerializerMethodField(help_text="What is sent.")

    class Meta(MessageOutput.Meta):
        fields: Any = (*MessageOutput.Meta.fields, "body")
        read_only_fields: Any = fields

    def get_body(self, message: WebhookMessage) -> dict[str, Any]:
        return json.loads(bytes(message.body))


class AttemptOutput(StrictModelSerializer):
    error = serializers.CharField(read_only=True, help_text="Empty when it was delivered.")
    answer = serializers.CharField(read_only=True, help_text="How the answer began, without secrets.")

    class Meta:
        model = WebhookAttempt
        fields = ("number", "at", "status_code", "error", "duration_ms", "answer")
        read_only_fields = fields


class EventTypeOutput(serializers.Serializer):
    name = serializers.CharField()
    summary = serializers.CharField()
    payload_fields = serializers.ListField(
        child=serializers.CharField(), help_text="What `data` holds besides its identity."
    )
    scopes = serializers.ListField(
        child=serializers.CharField(), help_text="What a key needs to subscribe to it and to read of it."
    )


class RotateInput(StrictSerializer):
    expire_now = serializers.BooleanField(
        default=False, help_text="The old one leaked: it signs nothing from now on, not for 24 hours."
    )


class ResendInput(StrictSerializer):
    since = InstantField(help_text="Messages that failed for good and were made since then.")


class ResentOutput(serializers.Serializer):
    messages = serializers.IntegerField(help_text="How many are on their way again.")


class EndpointQuery(PageQuery):
    status = serializers.ChoiceField(choices=EndpointStatus.choices, required=False)


class MessageQuery(PageQuery):
    status = serializers.ChoiceField(choices=STATUSES, required=False)
    type = serializers.CharField(required=False, max_length=80)


class EndpointViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """Where an organization hears of events. Deleted endpoints are not there any more."""

    scope = "webhooks"
    queryset = WebhookEndpoint.objects.exclude(status=EndpointStatus.DELETED).select_related(
        "organization", "health"
    )
    serializer_class = EndpointOutput
    query_serializer = EndpointQuery

    def visible(self, queryset: models.QuerySet, organization: Organization) -> models.QuerySet:
        return queryset.filter(organization=organization)

    def filter_queryset(self, queryset: models.QuerySet) -> models.QuerySet:
        if self.action == "list" and (status := self.query.get("status")):
            queryset = queryset.filter(status=status)
        return super().filter_queryset(queryset)

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self._shown(self.get_object())

    @extend_schema(request=EndpointInput, responses={201: EndpointWithSecret})
    def create(self, request: Request) -> Response:
        """Make an endpoint of one's own. The answer is the only one that shows its signing secret."""
        endpoint, secret = services.create_endpoint(
            organization=self.api_key.organization,
            **self.validated(EndpointInput),
            actor=self.actor,
            at=self.at,
        )
        response = self._with_secret(endpoint, secret, status=201)
        response["Location"] = f"{request.path}{endpoint.pk}/"
        return response

    @extend_schema(request=EndpointChange, responses=EndpointOutput, parameters=[IF_MATCH])
    def partial_update(self, request: Request, pk: Any = None) -> Response:
        """Change URL, event types or description. What is pending goes to the new URL."""
        return self._shown(
            services.update_endpoint(
                endpoint=self.get_object(),
                expected_version=require_if_match(request),
                **self.validated(EndpointChange),
                actor=self.actor,
                at=self.at,
            )
        )

    @extend_schema(request=None, responses={204: None}, parameters=[IF_MATCH])
    def destroy(self, request: Request, pk: Any = None) -> Response:
        """Delete an endpoint for good; what is pending is cancelled."""
        services.delete_endpoint(
            endpoint=self.get_object(),
            expected_version=require_if_match(request),
            actor=self.actor,
            at=self.at,
        )
        return Response(status=204)

    @extend_schema(request=RotateInput, responses=EndpointWithSecret)
    @action(detail=True, methods=["post"], url_path="rotate-secret", query_serializer=None)
    def rotate_secret(self, request: Request, pk: Any = None) -> Response:
        """A new signing secret, shown once. For 24 hours deliveries are signed with the old one too, unless
        `expire_now` says otherwise."""
        return self._with_secret(
            *services.rotate_secret(
                endpoint=self.get_object(), **self.validated(RotateInput), actor=self.actor, at=self.at
            )
        )

    @extend_schema(request=None, responses=EndpointOutput)
    @action(detail=True, methods=["post"], query_serializer=None)
    def disable(self, request: Request, pk: Any = None) -> Response:
        """Stop sending. What is pending waits; events are collected for 30 days."""
        return self._shown(
            services.disable_endpoint(endpoint=self.get_object(), actor=self.actor, at=self.at)
        )

    @extend_schema(request=None, responses=EndpointOutput)
    @action(detail=True, methods=["post"], query_serializer=None)
    def enable(self, request: Request, pk: Any = None) -> Response:
        """Send again, beginning with what has waited."""
        return self._shown(services.enable_endpoint(endpoint=self.get_object(), actor=self.actor, at=self.at))

    @extend_schema(request=None, responses={202: MessageOutput})
    @action(detail=True, methods=["post"], query_serializer=None)
    def test(self, request: Request, pk: Any = None) -> Response:
        """Send a `webhook.test`; its message says how that went."""
        message = services.send_test_event(endpoint=self.get_object(), actor=self.actor, at=self.at)
        return Response(MessageOutput(message).data, status=202)

    @extend_schema(request=ResendInput, responses={202: ResentOutput})
    @action(detail=True, methods=["post"], query_serializer=None)
    def resend(self, request: Request, pk: Any = None) -> Response:
        """Send everything again that failed for good since an instant."""
        count = services.resend_failed(
            endpoint=self.get_object(), **self.validated(ResendInput), actor=self.actor, at=self.at
        )
        return Response({"messages": count}, status=202)

    @extend_schema(responses=MessageOutput(many=True))
    @action(detail=True, query_serializer=MessageQuery)
    def messages(self, request: Request, pk: Any = None) -> Response:
        """The delivery log, newest first, as far as the key may read what it is about."""
        rows = self.get_object().messages.defer("body").filter(type__in=event_types.open_to(self.actor))
        if status := self.query.get("status"):
            rows = rows.filter(**{f"{_COLUMNS[status]}__isnull": False})
        if type_ := self.query.get("type"):
            rows = rows.filter(type=type_)
        return self.get_paginated_response(MessageOutput(self.paginate_queryset(rows), many=True).data)

    def _shown(self, endpoint: WebhookEndpoint) -> Response:
        endpoint = services.endpoint_of(endpoint.pk)
        return Response(EndpointOutput(endpoint).data, headers={"ETag": etag(endpoint.version)})

    def _with_secret(self, endpoint: WebhookEndpoint, secret: str, status: int = 200) -> Response:
        """The secret is in the answer and not in what is remembered of it."""
        response = self._shown(endpoint)
        response.status_code, shown = status, response.data
        response.data = {**shown, "secret": secret}
        response.remembered = {**shown, "secret": None}  # type: ignore[attr-defined]
        return response


class MessageViewSet(mixins.RetrieveModelMixin, CommerceViewSet):
    """One event for one endpoint, with every attempt to deliver it."""

    scope = "webhooks"
    queryset = WebhookMessage.objects.select_related("endpoint")
    serializer_class = MessageWithBody

    def visible(self, queryset: models.QuerySet, organization: Organization) -> models.QuerySet:
        return queryset.filter(endpoint__organization=organization)

    def filter_queryset(self, queryset: models.QuerySet) -> models.QuerySet:
        """A body says what reading the object would: messages of what the key may not read are not there."""
        return super().filter_queryset(queryset.filter(type__in=event_types.open_to(self.actor)))

    @extend_schema(responses=AttemptOutput(many=True))
    @action(detail=True, query_serializer=PageQuery)
    def attempts(self, request: Request, pk: Any = None) -> Response:
        """What was tried and what came back, newest first."""
        page = self.paginate_queryset(self.get_object().log.all())
        return self.get_paginated_response(AttemptOutput(page, many=True).data)

    @extend_schema(request=None, responses={202: MessageOutput})
    @action(detail=True, methods=["post"], query_serializer=None)
    def resend(self, request: Request, pk: Any = None) -> Response:
        """Send it again, as it was and under the same webhook-id."""
        message = services.resend_message(message=self.get_object(), actor=self.actor, at=self.at)
        return Response(MessageOutput(message).data, status=202)


class EventTypeViewSet(CommerceViewSet):
    """What one can subscribe to."""

    scope = "webhooks"
    queryset = WebhookEndpoint.objects.none()
    query_serializer = Query
    pagination_class = None
    serializer_class = EventTypeOutput

    @extend_schema(responses=EventTypeOutput(many=True))
    def list(self, request: Request) -> Response:
        """Every event type that this organization can hear of."""
        everything = self.sees_everything
        found = [
            {
                "name": known.name,
                "summary": known.summary,
                "payload_fields": sorted(known.example if everything else known.public),
                "scopes": event_types.scopes_of(known),
            }
            for known in event_types.subscribable(platform=everything)
        ]
        return Response(EventTypeOutput(found, many=True).data)


router = SimpleRouter()
router.register("webhook-endpoints", EndpointViewSet, basename="webhook-endpoint")
router.register("webhook-messages", MessageViewSet, basename="webhook-message")
router.register("webhook-event-types", EventTypeViewSet, basename="webhook-event-type")
urlpatterns = router.urls

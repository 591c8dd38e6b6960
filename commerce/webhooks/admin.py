"""Webhooks in the console: endpoints and how they fare, the delivery log, and what can be done about it."""

import json
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Min, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce import states
from commerce.actor import Actor
from commerce.console.actions import ObjectAction, ShownOnce
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import facts, table
from commerce.console.format import NOTHING, badge, in_short, instant, link, number, shown_json, subject_link
from commerce.console.registry import Card, CardValue, register_card, register_panel
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from commerce.webhooks import event_types, services
from commerce.webhooks.models import OPERATE, EndpointStatus, WebhookEndpoint, WebhookHealth, WebhookMessage

ROWS_SHOWN = 20
MOST_COUNTED = 10_000


class ResendForm(forms.Form):
    days = forms.IntegerField(
        min_value=1, max_value=90, initial=7, label="Days", help_text="Messages made in so many last days."
    )


class RotateForm(forms.Form):
    expire_now = forms.BooleanField(
        required=False,
        label="The old one leaked",
        help_text="It signs nothing from now on, not for 24 hours.",
    )


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("pending", "pending"), ("failed", "failed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[WebhookMessage]) -> QuerySet[WebhookMessage]:
        column = {"pending": "due_at", "failed": "failed_at"}.get(self.value() or "")
        return queryset.filter(**{f"{column}__isnull": False}) if column else queryset


def _rotate(*, obj: WebhookEndpoint, **context: Any) -> ShownOnce:
    _, secret = services.rotate_secret(endpoint=obj, **context)
    return ShownOnce(f"The new secret, shown this once: {secret}")


def _test(*, obj: WebhookEndpoint, **context: Any) -> str:
    return f"{services.send_test_event(endpoint=obj, **context).webhook_id} is on its way."


def _resend(*, obj: WebhookEndpoint, days: int, **context: Any) -> str:
    since = timezone.now() - timedelta(days=days)
    return f"{services.resend_failed(endpoint=obj, since=since, **context)} messages are on their way again."


def _pending(endpoint: WebhookEndpoint) -> int:
    return endpoint.messages.filter(due_at__isnull=False)[:MOST_COUNTED].count()


def _failed(endpoint: WebhookEndpoint) -> int:
    return endpoint.messages.filter(failed_at__isnull=False)[:MOST_COUNTED].count()


def _at_least(count: int) -> SafeString:
    """Nobody waits for more to be counted."""
    return number(count) if count < MOST_COUNTED else format_html("{} or more", number(count))


def _why_not_deleted(endpoint: WebhookEndpoint) -> str:
    return "It was deleted." if endpoint.status == EndpointStatus.DELETED else ""


def _why_not_tested(endpoint: WebhookEndpoint) -> str:
    return "" if endpoint.status == EndpointStatus.ENABLED else f"It is {endpoint.status}."


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ConsoleAdmin):
    """Where organizations are told of events; each makes its own over the API. One that fails for five days
    is disabled, and a person told."""

    icon = "webhook"
    list_display = ("shown_url", "owner", "shown_status", "health_of", "last_success", "types")
    list_filter = ("status",)
    list_select_related = ("organization", "health")
    search_fields = ("id__exact", "organization__slug__startswith")
    search_help_text = "Id, or how the organization's slug begins."
    fields = (
        "shown_url", "owner", "shown_status", "types", "description", "health_of", "failing_since",
        "last_success", "last_error", "created", "id",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "test",
            "Send test event",
            permission=OPERATE,
            run=_test,
            available=_why_not_tested,
            consequences=lambda obj: f"A webhook.test is signed and sent to {obj.url}.",
            reason_required=False,
        ),
        ObjectAction(
            "resend",
            "Resend failed",
            permission=OPERATE,
            run=_resend,
            form=ResendForm,
            available=_why_not_deleted,
            consequences=lambda obj: (
                f"{_failed(obj):,} messages have failed for good. Those of the chosen days are sent again, "
                "as they were and under the same ids."
            ),
        ),
        ObjectAction(
            "rotate",
            "Rotate secret",
            permission=services.REGISTER,
            run=_rotate,
            form=RotateForm,
            available=_why_not_deleted,
            consequences=lambda obj: (
                "The new secret is shown once. For 24 hours deliveries are signed with both, or with the new "
                "one alone if the old one leaked; then receivers that know only the old one refuse them."
            ),
            danger=True,
        ),
        ObjectAction(
            "disable",
            "Disable",
            permission=OPERATE,
            run=lambda *, obj, **context: services.disable_endpoint(endpoint=obj, **context) and None,
            available=lambda obj: states.available(obj, "disable"),
            consequences=lambda obj: (
                f"Nothing is sent to {obj.url}. {_pending(obj):,} messages wait, and events are collected "
                "for 30 days."
            ),
            danger=True,
        ),
        ObjectAction(
            "enable",
            "Enable",
            permission=OPERATE,
            run=lambda *, obj, **context: services.enable_endpoint(endpoint=obj, **context) and None,
            available=lambda obj: states.available(obj, "enable"),
            consequences=lambda obj: f"{_pending(obj):,} messages that have waited are sent now.",
        ),
        ObjectAction(
            "delete",
            "Delete",
            permission=services.REGISTER,
            run=lambda *, obj, **context: services.delete_endpoint(endpoint=obj, **context) and None,
            available=lambda obj: states.available(obj, "delete_for_good"),
            consequences=lambda obj: (
                f"It ends for good: {_pending(obj):,} messages are cancelled, its log stays."
            ),
            danger=True,
        ),
    )

    @admin.display(description="URL")
    def shown_url(self, obj: WebhookEndpoint) -> SafeString:
        return format_html('<span class="c-url">{}</span>', obj.url)

    @admin.display(description="Organization")
    def owner(self, obj: WebhookEndpoint) -> SafeString:
        return link(obj.organization)

    @admin.display(description="Status")
    def shown_status(self, obj: WebhookEndpoint) -> SafeString:
        tones = {"enabled": "good", "disabled": "bad", "deleted": "plain"}
        shown = badge(obj.status, tones[obj.status])
        if not obj.disabled_because:
            return shown
        return format_html("{} {}", shown, obj.get_disabled_because_display())

    @admin.display(description="Health")
    def health_of(self, obj: WebhookEndpoint) -> SafeString:
        health = obj.health
        if health.failing_since:
            return badge("failing", "bad")
        return badge("well", "good") if health.last_success_at else badge("nothing sent yet", "plain")

    @admin.display(description="Failing since")
    def failing_since(self, obj: WebhookEndpoint) -> SafeString:
        return instant(obj.health.failing_since)

    @admin.display(description="Last success")
    def last_success(self, obj: WebhookEndpoint) -> SafeString:
        return instant(obj.health.last_success_at)

    @admin.display(description="Last error")
    def last_error(self, obj: WebhookEndpoint) -> str:
        return obj.health.last_error or "—"

    @admin.display(description="Event types")
    def types(self, obj: WebhookEndpoint) -> str:
        return ", ".join(obj.event_types)

    @admin.display(description="Made")
    def created(self, obj: WebhookEndpoint) -> SafeString:
        return instant(obj.created_at)


@admin.register(WebhookMessage)
class WebhookMessageAdmin(ConsoleAdmin):
    """The delivery log: one event for one endpoint, under one id however often it is sent."""

    icon = "outgoing_mail"
    list_display = ("type", "endpoint_link", "shown_status", "tries", "made", "next_attempt", "error")
    list_filter = (StatusFilter,)
    list_select_related = ("endpoint",)
    search_fields = ("id__exact", "event_id__exact", "type__exact", "endpoint__id__exact")
    search_help_text = "Id (msg_… without msg_), event id, endpoint id, or type"
    fields = (
        "type", "webhook_id", "endpoint_link", "shown_status", "event", "attempts", "made", "next_attempt",
        "ended", "last_error",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "resend",
            "Send again",
            permission=OPERATE,
            run=lambda *, obj, **context: services.resend_message(message=obj, **context) and None,
            available=lambda obj: _why_not_deleted(obj.endpoint),
            consequences=lambda obj: (
                f"{obj.webhook_id} goes to {obj.endpoint.url} as it was. A receiver that has had it knows it "
                "by its id."
            ),
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[WebhookMessage]:
        return super().get_queryset(request).defer("body")

    @admin.display(description="Endpoint")
    def endpoint_link(self, obj: WebhookMessage) -> SafeString:
        return link(obj.endpoint)

    @admin.display(description="Status")
    def shown_status(self, obj: WebhookMessage) -> SafeString:
        return badge(obj.status, "good" if obj.status == "delivered" else "")

    @admin.display(description="Event")
    def event(self, obj: WebhookMessage) -> SafeString:
        found = OutboxEvent.objects.filter(event_id=obj.event_id).first()
        return link(found) if found else format_html('<span class="c-mono">{}</span>', obj.event_id)

    @admin.display(description="Attempts")
    def tries(self, obj: WebhookMessage) -> SafeString:
        return number(obj.attempts)

    @admin.display(description="Made")
    def made(self, obj: WebhookMessage) -> SafeString:
        return instant(obj.created_at)

    @admin.display(description="Next attempt")
    def next_attempt(self, obj: WebhookMessage) -> SafeString:
        return instant(obj.due_at)

    @admin.display(description="Ended")
    def ended(self, obj: WebhookMessage) -> SafeString:
        return instant(obj.delivered_at or obj.failed_at or obj.cancelled_at)

    @admin.display(description="Last error")
    def error(self, obj: WebhookMessage) -> SafeString:
        return in_short(obj.last_error)


def _messages_of(endpoint: WebhookEndpoint, request: HttpRequest) -> SafeString:
    rows = endpoint.messages.defer("body").order_by("-id")[:ROWS_SHOWN]
    newest = table(
        ("Message", "Status", ">Attempts", "Made", "Last error"),
        [
            (
                link(row, row.type),
                badge(row.status, "good" if row.status == "delivered" else ""),
                row.attempts,
                instant(row.created_at),
                row.last_error[:200] or NOTHING,
            )
            for row in rows
        ],
        empty="Nothing was sent yet.",
    )
    every = reverse("admin:webhooks_webhookmessage_changelist", query={"q": endpoint.pk})
    if not rows:
        return newest
    counts = facts(
        {"Pending": _at_least(_pending(endpoint)), "Failed for good": _at_least(_failed(endpoint))}
    )
    return format_html('{}{}<a class="c-button" href="{}">All messages</a>', counts, newest, every)


def _attempts_of(message: WebhookMessage, request: HttpRequest) -> SafeString:
    return table(
        (">#", "At", "Answer", ">ms", "What came back"),
        [
            (
                attempt.number,
                instant(attempt.at),
                badge(str(attempt.status_code), "good" if attempt.delivered else "bad")
                if attempt.status_code
                else attempt.error,
                f"{attempt.duration_ms:,}",
                format_html('<span class="c-mono">{}</span>', attempt.answer) if attempt.answer else NOTHING,
            )
            for attempt in message.log.order_by("-id")[:ROWS_SHOWN]
        ],
        empty="No attempt was made yet.",
    )


def _body_of(message: WebhookMessage, request: HttpRequest) -> SafeString:
    """For those who may look at what it is about."""
    if message.type not in event_types.open_to(Actor.for_user(request.user)):
        return format_html("<p>{}</p>", "You may not see what this message is about.")
    return shown_json(json.loads(bytes(message.body)))


def _endpoints_of(organization: Organization, request: HttpRequest) -> SafeString:
    rows = organization.webhook_endpoints.exclude(status=EndpointStatus.DELETED).select_related("health")
    found = [
        (
            link(row),
            badge(row.status, "good" if row.status == EndpointStatus.ENABLED else "bad"),
            ", ".join(row.event_types),
            instant(row.health.last_success_at),
        )
        for row in rows.order_by("-id")[:ROWS_SHOWN]
    ]
    return (
        table(("Webhook endpoint", "Status", "Event types", "Last success"), found) if found else SafeString()
    )


def _messages_of_event(event: OutboxEvent, request: HttpRequest) -> SafeString:
    rows = WebhookMessage.objects.filter(event_id=event.event_id).select_related("endpoint").defer("body")
    found = [
        (
            link(row, row.webhook_id),
            subject_link("webhooks.webhookendpoint", row.endpoint_id, row.endpoint.url),
            badge(row.status, "good" if row.status == "delivered" else ""),
            row.attempts,
        )
        for row in rows[:ROWS_SHOWN]
    ]
    return table(("Webhook", "To", "Status", ">Attempts"), found) if found else SafeString()


def _failing(request: HttpRequest) -> CardValue:
    failing = WebhookHealth.objects.filter(
        failing_since__isnull=False, endpoint__status=EndpointStatus.ENABLED
    )
    oldest: datetime | None = failing.aggregate(oldest=Min("failing_since"))["oldest"]
    return CardValue(failing.count(), oldest)


register_card(
    Card(
        key="webhooks.failing",
        title="Failing webhook endpoints",
        url=lambda: reverse("admin:webhooks_webhookendpoint_changelist") + "?status__exact=enabled",
        load=_failing,
        empty="Every receiver answers.",
        permission="webhooks.view_webhookendpoint",
        order=55,
        system_time=True,
    )
)
register_panel("webhooks.webhookendpoint", title="Newest messages", render=_messages_of)
register_panel("webhooks.webhookmessage", title="Attempts", render=_attempts_of)
register_panel("webhooks.webhookmessage", title="Body", render=_body_of, order=20)
register_panel(
    "parties.organization",
    title="Webhooks",
    render=_endpoints_of,
    permission="webhooks.view_webhookendpoint",
    order=30,
)
register_panel(
    "outbox.outboxevent",
    title="Webhooks",
    render=_messages_of_event,
    permission="webhooks.view_webhookmessage",
    order=30,
)

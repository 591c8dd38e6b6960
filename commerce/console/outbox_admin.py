"""The relay in the console: streams, what they stand at, and the events with their deliveries."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import facts, table
from commerce.console.format import (
    NOTHING,
    age,
    aggregate_label,
    badge,
    instant,
    link,
    shown_json,
    subject_link,
)
from commerce.console.registry import (
    Card,
    CardValue,
    Hit,
    Section,
    register_card,
    register_panel,
    register_search,
    register_section,
)
from commerce.outbox import replay, services
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.registry import groups_of

WAITING_SHOWN = 20


class ConditionFilter(admin.SimpleListFilter):
    title = "condition"
    parameter_name = "condition"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("parked", "parked"), ("due", "due"), ("retrying", "retrying")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[OutboxStream]) -> QuerySet[OutboxStream]:
        wanted: dict[str, dict[str, Any]] = {
            "parked": {"parked_at__isnull": False},
            "due": {"due_at__isnull": False},
            "retrying": {"due_at__isnull": False, "attempts__gt": 0},
        }
        return queryset.filter(**wanted.get(self.value() or "", {}))


def _waiting(stream: OutboxStream) -> QuerySet[OutboxEvent]:
    return OutboxEvent.objects.filter(
        aggregate_type=stream.aggregate_type, aggregate_id=stream.aggregate_id, sequence__gt=stream.cursor
    ).order_by("sequence")


def _stands_at(stream: OutboxStream) -> str:
    event = services.blocking_event(stream)
    waiting = _waiting(stream)[:1000].count()
    if event is None:
        return f"No event waits for {stream.group}."
    return f"{stream.group} stands at {event.type} #{event.sequence}; {waiting} events wait in this stream."


def _replay(*, obj: OutboxEvent, **context: Any) -> str:
    return f"Appended as #{replay.replay_event(event=obj, **context).sequence}."


def _retry_why_not(stream: OutboxStream) -> str:
    if stream.parked_at:
        return "Parked: resume it instead."
    return "" if stream.due_at else "Nothing waits here."


@admin.register(OutboxStream)
class OutboxStreamAdmin(ConsoleAdmin):
    """One queue per aggregate and subscriber. Nothing is dropped and nothing is skipped."""

    icon = "sync_alt"
    keyed_by = ("aggregate_type", "aggregate_id")
    list_display = ("aggregate", "group", "condition", "cursor", "attempts", "due", "error")
    list_display_links = ("group",)
    list_filter = (ConditionFilter,)
    search_fields = ("id__exact",)
    search_help_text = "Number, or aggregate:id"
    fields = ("aggregate", "group", "condition", "cursor", "attempts", "due", "tried", "parked", "last_error")
    object_actions = (
        ObjectAction(
            "retry",
            "Retry now",
            permission=services.PERMISSION,
            run=lambda *, obj, **context: services.retry_stream(stream=obj, **context) and None,
            available=_retry_why_not,
            consequences=lambda obj: f"{_stands_at(obj)} It is delivered at once, its back-off forgotten.",
        ),
        ObjectAction(
            "park",
            "Park",
            permission=services.PERMISSION,
            run=lambda *, obj, **context: services.park_stream(stream=obj, **context) and None,
            available=lambda obj: "Parked already." if obj.parked_at else "",
            consequences=lambda obj: (
                f"{_stands_at(obj)} Nothing is delivered until somebody resumes the stream."
            ),
            danger=True,
        ),
        ObjectAction(
            "resume",
            "Resume",
            permission=services.PERMISSION,
            run=lambda *, obj, **context: services.resume_stream(stream=obj, **context) and None,
            available=lambda obj: "" if obj.parked_at else "Not parked.",
            consequences=lambda obj: (
                f"{_stands_at(obj)} Delivery goes on from there, in order. "
                f"It was parked because: {obj.parked_reason}"
            ),
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutboxStream]:
        return super().get_queryset(request).exclude(group="")

    @admin.display(description="Aggregate")
    def aggregate(self, obj: OutboxStream) -> SafeString:
        return subject_link(aggregate_label(obj.aggregate_type), obj.aggregate_id)

    @admin.display(description="Condition")
    def condition(self, obj: OutboxStream) -> SafeString:
        return badge(*condition_of(obj))

    @admin.display(description="Due")
    def due(self, obj: OutboxStream) -> SafeString:
        return instant(obj.due_at)

    @admin.display(description="Last tried")
    def tried(self, obj: OutboxStream) -> SafeString:
        return instant(obj.last_tried_at)

    @admin.display(description="Parked")
    def parked(self, obj: OutboxStream) -> SafeString:
        if not obj.parked_at:
            return NOTHING
        return format_html("{} {}", instant(obj.parked_at), obj.parked_reason)

    @admin.display(description="Last error")
    def error(self, obj: OutboxStream) -> str:
        return obj.last_error[:80] or "—"


@admin.register(OutboxEvent)
class OutboxEventAdmin(ConsoleAdmin):
    """What happened, in order per aggregate. Replay appends a copy; history is never rewound."""

    icon = "bolt"
    keyed_by = ("aggregate_type", "aggregate_id")
    list_display = ("type", "aggregate", "sequence", "occurred", "published")
    search_fields = ("event_id__exact", "type__exact")
    search_help_text = "Event id, type, or aggregate:id"
    fields = (
        "event_id", "type", "version", "aggregate", "sequence", "occurred", "recorded", "published",
        "shown_headers", "shown_payload",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "replay",
            "Replay",
            permission=services.PERMISSION,
            run=lambda *, obj, **context: (
                f"Appended as #{replay.replay_event(event=obj, **context).sequence}."
            ),
            consequences=lambda obj: (
                f"A copy of {obj.type} is appended to the end of the stream of {obj.aggregate_type} "
                f"{obj.aggregate_id} and delivered to: {', '.join(groups_of(obj.type)) or 'nobody here'}. "
                "Subscribers that have handled it before recognise their own effects."
            ),
            danger=True,
        ),
    )

    @admin.display(description="Aggregate")
    def aggregate(self, obj: OutboxEvent) -> SafeString:
        return subject_link(aggregate_label(obj.aggregate_type), obj.aggregate_id)

    @admin.display(description="Occurred")
    def occurred(self, obj: OutboxEvent) -> SafeString:
        return instant(obj.occurred_at)

    @admin.display(description="Recorded")
    def recorded(self, obj: OutboxEvent) -> SafeString:
        return instant(obj.recorded_at)

    @admin.display(description="Published")
    def published(self, obj: OutboxEvent) -> SafeString:
        return instant(obj.published_at) if obj.published_at else badge("pending")

    @admin.display(description="Headers")
    def shown_headers(self, obj: OutboxEvent) -> SafeString:
        return shown_json(obj.headers)

    @admin.display(description="Payload")
    def shown_payload(self, obj: OutboxEvent) -> SafeString:
        return shown_json(obj.payload)


def condition_of(stream: OutboxStream) -> tuple[str, str]:
    """A word and a tone for what the stream is doing."""
    if stream.parked_at:
        return "parked", "bad"
    if stream.lease_token and stream.due_at and stream.due_at > timezone.now():
        return "working", "busy"
    if stream.due_at and stream.attempts:
        return "retrying", "warn"
    return ("due", "busy") if stream.due_at else ("idle", "good")


def _events_of(stream: OutboxStream, request: HttpRequest) -> SafeString:
    rows = [
        [event.sequence, link(event, event.type), instant(event.occurred_at)]
        for event in _waiting(stream)[:WAITING_SHOWN]
    ]
    return table(["#", "Event", "Occurred"], rows, empty="Everything has been delivered.")


def _deliveries_of(event: OutboxEvent, request: HttpRequest) -> SafeString:
    streams = OutboxStream.objects.filter(
        aggregate_type=event.aggregate_type, aggregate_id=event.aggregate_id, group__in=groups_of(event.type)
    ).order_by("group")
    rows = [
        [
            link(stream, stream.group),
            badge("done") if stream.cursor >= event.sequence else badge(*condition_of(stream)),
            stream.last_error[:200] if stream.cursor < event.sequence else "",
        ]
        for stream in streams
    ]
    return table(["Subscriber", "Delivery", "Error"], rows, empty="Nobody here listens to this event.")


def _parked(request: HttpRequest) -> CardValue:
    parked = OutboxStream.objects.filter(parked_at__isnull=False)
    oldest = parked.order_by("parked_at").values_list("parked_at", flat=True).first()
    return CardValue(parked[:10_000].count(), oldest)


def _lag(request: HttpRequest) -> SafeString:
    now = services.status()
    return facts(
        {
            "Due now": f"{now.due:,}",
            "Waiting to retry": f"{now.waiting:,}",
            "Parked": f"{now.parked:,}",
            "Unpublished events": f"{now.unpublished:,}",
            "Oldest due": age(now.oldest_due_seconds) if now.due else "nothing is due",
        }
    )


def _search(term: str) -> list[Hit]:
    kind, colon, key = term.partition(":")
    if not colon:
        return []
    events = OutboxEvent.objects.filter(aggregate_type=kind, aggregate_id=key).order_by("-sequence")[:10]
    return [
        Hit(str(event), reverse("admin:outbox_outboxevent_change", args=[event.pk]), "event")
        for event in events
    ]


register_card(
    Card(
        key="outbox.parked",
        title="Parked streams",
        url=lambda: reverse("admin:outbox_outboxstream_changelist") + "?condition=parked",
        load=_parked,
        empty="Every event finds its way.",
        permission="outbox.view_outboxstream",
        order=50,
        system_time=True,
    )
)
register_section(
    Section("outbox.lag", "Relay", _lag, permission="outbox.view_outboxstream", order=90, half=True)
)
register_panel("outbox.outboxstream", title="Waiting events", render=_events_of)
register_panel("outbox.outboxevent", title="Deliveries", render=_deliveries_of)
register_search(_search, permission="outbox.view_outboxevent")

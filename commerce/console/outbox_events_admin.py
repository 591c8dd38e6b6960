"""Events in the console: who has got one, what caused it and what it caused, and sending it once more."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import F, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Cast, Coalesce, Substr
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget

from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import (
    NOTHING,
    aggregate_label,
    badge,
    instant,
    link,
    shown_json,
    subject_link,
    wide,
)
from commerce.console.outbox_admin import ROWS_SHOWN, TONES
from commerce.console.registry import Hit, register_panel, register_search
from commerce.outbox import replay, services, traces
from commerce.outbox.models import OutboxEvent, OutboxSkip
from commerce.outbox.retention import archived_month, horizon, recorded_near


def _replay(*, obj: OutboxEvent, **context: Any) -> str:
    return f"Appended as #{replay.replay_event(event=obj, **context).sequence}."


def _replay_means(event: OutboxEvent) -> str:
    worth = replay.value_of(event)
    return (
        f"A copy of {event.type}{f', {worth},' if worth else ''} is appended to the end of the stream of "
        f"{event.aggregate_type} {event.aggregate_id} and delivered to the subscribers you choose: all of "
        f"{', '.join(replay.Selection().receivers(event)) or 'nobody'}, or one. Who has handled it before "
        "recognises its own effects; providers are asked what they have before anything is sent again."
    )


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
    )  # fmt: skip

    @property
    def about(self) -> str:
        """Where the list begins, if not with the first event ever."""
        begins = horizon()
        gone = f" Events before {begins:%B %Y} are archived; bring a month back to see it." if begins else ""
        return super().about + gone

    def get_object_actions(self, request: HttpRequest, obj: Any) -> tuple[ObjectAction, ...]:
        groups = replay.Selection().receivers(obj)
        choices = [("", "every subscriber"), *((group, group) for group in groups)]
        chosen = forms.ChoiceField(
            choices=choices, required=False, label="For", widget=UnfoldAdminSelectWidget
        )
        return (
            ObjectAction(
                "replay",
                "Replay",
                permission=services.PERMISSION,
                run=_replay,
                form=type("ReplayForm", (forms.Form,), {"group": chosen}),
                available=replay.why_not_replay,
                consequences=_replay_means,
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


@admin.register(OutboxSkip)
class OutboxSkipAdmin(ConsoleAdmin):
    """Events that a subscriber was never given, because two people agreed on it. Such an event counts as
    published some seconds later, if nobody else has still to be given it."""

    icon = "skip_next"
    list_display = ("event", "subscriber", "skipped", "reason", "requester", "approver")
    search_fields = ("event_id__exact",)
    search_help_text = "Event id"
    fields = (
        "skipped_event", "subscriber", "in_stream", "skipped", "requester", "approver", "why", "said",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutboxSkip]:
        return (
            super()
            .get_queryset(request)
            .annotate(requester_name=_name_in("requested_by"), approver_name=_name_in("approved_by"))
        )

    @admin.display(description="Event")
    def event(self, obj: OutboxSkip) -> str:
        return f"{obj.type} #{obj.sequence}"

    @admin.display(description="Event")
    def skipped_event(self, obj: OutboxSkip) -> SafeString:
        found = OutboxEvent.objects.filter(recorded_near(obj.event_id)).first()
        return link(found, self.event(obj)) if found else format_html("{}, archived", self.event(obj))

    @admin.display(description="Subscriber")
    def subscriber(self, obj: OutboxSkip) -> str:
        return obj.group

    @admin.display(description="Requested by")
    def requester(self, obj: Any) -> str:
        return str(obj.requester_name)

    @admin.display(description="Approved by")
    def approver(self, obj: Any) -> str:
        return str(obj.approver_name)

    @admin.display(description="Why it was skipped")
    def why(self, obj: OutboxSkip) -> SafeString:
        return wide(obj.reason)

    @admin.display(description="What it was parked for")
    def said(self, obj: OutboxSkip) -> SafeString:
        return wide(obj.error)

    @admin.display(description="Stream")
    def in_stream(self, obj: OutboxSkip) -> SafeString:
        return link(obj.stream)

    @admin.display(description="Skipped")
    def skipped(self, obj: OutboxSkip) -> SafeString:
        return instant(obj.skipped_at)


def _name_in(column: str) -> Coalesce:
    """The name of the person in "user:7"; both columns hold nobody else, by constraint."""
    people = get_user_model().objects.filter(pk=Cast(Substr(OuterRef(column), 6), IntegerField()))
    return Coalesce(Subquery(people.values("username")[:1]), F(column))


def _deliveries_of(event: OutboxEvent, request: HttpRequest) -> SafeString:
    rows = [
        [
            link(delivery.stream, delivery.group) if delivery.stream else delivery.group,
            badge(delivery.state, TONES.get(delivery.state, "plain")),
            link(delivery.skip, delivery.skip.reason) if delivery.skip else NOTHING,
            format_html_join(
                SafeString("<br>"),
                "{} attempt {}: {}",
                ((instant(failed.failed_at), failed.attempt, failed.error) for failed in delivery.failures),
            )
            or NOTHING,
        ]
        for delivery in traces.deliveries(event)
    ]
    empty = "Nobody here listens to this event."
    return table(["Subscriber", "Delivery", "Skipped because", "Failures"], rows, empty=empty)


def _chain_of(event: OutboxEvent, request: HttpRequest) -> SafeString:
    """The first cause on top, what this event caused at the bottom; nothing when it stands alone."""
    causes = [("cause", cause) for cause in traces.causes(event)][::-1]
    after = [
        ("replay" if "replay" in caused.headers else "consequence", caused)
        for caused in traces.consequences(event)[:ROWS_SHOWN]
    ]
    first = causes[0][1] if causes else event
    unseen = first.headers.get("causation_id")
    archived = archived_month(UUID(unseen)) if unseen else None
    if not causes and not after and not archived:
        return SafeString()
    gone = (
        [["cause", unseen, NOTHING, f"archived with {archived:%B %Y}", NOTHING, NOTHING]] if archived else []
    )
    rows = [
        *gone,
        *(
            [
                word,
                link(found, f"{found.type} #{found.sequence}")
                if found != event
                else f"{found.type} #{found.sequence}",
                subject_link(aggregate_label(found.aggregate_type), found.aggregate_id),
                instant(found.recorded_at),
                found.headers.get("reason") or NOTHING,
                ", ".join(found.headers.get("only", [])) or NOTHING,
            ]
            for word, found in [*causes, ("this event", event), *after]
        ),
    ]
    return table(["", "Event", "Aggregate", "Recorded", "Why", "Only for"], rows)


def _content_of(event: OutboxEvent, request: HttpRequest) -> SafeString:
    return format_html("{}<h3>Headers</h3>{}", shown_json(event.payload), shown_json(event.headers))


def _search(term: str) -> list[Hit]:
    kind, colon, key = term.partition(":")
    if not colon:
        return []
    events = OutboxEvent.objects.filter(aggregate_type=kind, aggregate_id=key).order_by("-sequence")[:10]
    return [
        Hit(str(event), reverse("admin:outbox_outboxevent_change", args=[event.pk]), "event")
        for event in events
    ]


register_panel("outbox.outboxevent", title="Deliveries", render=_deliveries_of, order=1)
register_panel("outbox.outboxevent", title="Causes and consequences", render=_chain_of, order=2)
register_panel("outbox.outboxevent", title="Payload", render=_content_of, order=90)
register_search(_search, permission="outbox.view_outboxevent")

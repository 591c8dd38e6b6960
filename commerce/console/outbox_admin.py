"""Streams and providers' lines in the console: what stands still, why, and what may be done about it."""

import re
from typing import Any

from django import forms
from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce.console import outbox_skip
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import facts, table
from commerce.console.format import (
    NOTHING,
    age,
    aggregate_label,
    badge,
    in_short,
    instant,
    link,
    number,
    shown_json,
    subject_link,
    wide,
)
from commerce.console.panels import approvals_of, in_words
from commerce.console.registry import (
    Card,
    CardValue,
    Section,
    register_card,
    register_panel,
    register_section,
)
from commerce.outbox import registry, services, traces
from commerce.outbox.models import Circuit, OutboxStream

ROWS_SHOWN = 20
# As far as the home page counts, and as many as one request lets go on.
COUNTED = 10_000
RESUMED_AT_ONCE = 5_000
TONES = {
    "parked": "bad",
    "working": "busy",
    "retrying": "warn",
    "due": "busy",
    "idle": "good",
    "skipped": "warn",
    "done": "good",
    "open": "bad",
    "paused": "warn",
    "closed": "good",
}
# What to do about an error, by its class; the first word of what is kept of it.
ADVICE = {
    "Rejected": "The provider said no and would say it again: correct what it names, there or in our data, "
    "then resume.",
    "Retryable": "The provider did not do it in twelve attempts: look at its line and its status page, then "
    "resume. Nothing has happened there.",
    "Unknown": "It may have happened although no answer came. Resuming is safe: it is looked up before it "
    "is sent again.",
    "UnknownVersion": "A newer release wrote the event, or wrote it for a subscriber that this one does not "
    "know: deploy that release, then resume.",
    "WorkerLost": "Twelve workers ended while they had it in hand, or could not give it back in time: look "
    "for kills and memory in the system's log. Resuming tries it again, and may end another.",
    "StateConflict": "The object is not in the state that the effect needs: bring it there with its own "
    "buttons, then resume; request a skip if there is nothing left to do.",
    "InsufficientFunds": "The account does not hold enough: fund it, then resume.",
    "OperationalError": "The database was away or too busy: resume when it is well.",
    "SoftTimeLimitExceeded": "It took longer than a task may: resume, and look at the log if it parks again.",
}
DEFECT = (
    "A defect, or something that is missing: the log of this event has the traceback. Put it right or deploy "
    "a handler that can bear the event, then resume."
)
BY_HAND = "A person parked it: resume it when that reason is gone."
_SAID_BY = re.compile(r"user:(\d+): ")


class ConditionFilter(admin.SimpleListFilter):
    title = "condition"
    parameter_name = "condition"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(word, word) for word in ("parked", "due", "working", "retrying")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[OutboxStream]) -> QuerySet[OutboxStream]:
        wanted: dict[str, dict[str, Any]] = {
            "parked": {"parked_at__isnull": False},
            "due": {"due_at__isnull": False},
            "working": {"due_at__isnull": False, "lease_token__isnull": False},
            "retrying": {"due_at__isnull": False, "attempts__gt": 0},
        }
        return queryset.filter(**wanted.get(self.value() or "", {}))


class _MovingFilter(admin.SimpleListFilter):
    """Only among what is due or parked: both have their index, and what is idle needs nobody."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[OutboxStream]) -> QuerySet[OutboxStream]:
        if not (value := self.value()):
            return queryset
        moving = queryset.filter(Q(due_at__isnull=False) | Q(parked_at__isnull=False))
        return moving.filter(**{str(self.parameter_name): value})


class LaneFilter(_MovingFilter):
    title = "lane (due or parked)"
    parameter_name = "lane"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(lane, lane) for lane in registry.lanes()]


class GroupFilter(_MovingFilter):
    title = "subscriber (due or parked)"
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(group, group) for group in sorted(registry.group_lanes())]


def stands_at(stream: OutboxStream) -> str:
    event = services.blocking_event(stream)
    if event is None:
        return f"No event waits for {stream.group}."
    waiting = services.waiting_events(stream)[:1000].count()
    wait = "1 event waits" if waiting == 1 else f"{waiting:,} events wait"
    return f"{stream.group} stands at {event.type} #{event.sequence}; {wait} in this stream."


def advice(stream: OutboxStream) -> str:
    """What to do about a parked stream; nothing about one that is not."""
    if not stream.parked_at:
        return ""
    if not stream.last_error or not stream.parked_reason.endswith(stream.last_error):
        return BY_HAND
    return ADVICE.get(stream.last_error.partition(":")[0], DEFECT)


def named(said: str) -> str:
    """What a person said, under the name that they sign in with."""
    by = _SAID_BY.match(said)
    person = get_user_model().objects.filter(pk=by[1]).first() if by else None
    return f"{person.get_username()}: {said[by.end() :]}" if by and person else said


def condition(stream: OutboxStream) -> SafeString:
    word = traces.condition(stream)
    return badge(word, TONES[word])


def _resume_alike(stream: OutboxStream) -> ObjectAction:
    """All at once, as far as a request goes, and only while they are as many as the operator was shown."""
    alike = services.parked_like(stream).count()
    expected = forms.IntegerField(initial=alike, widget=forms.HiddenInput)

    def run(*, obj: OutboxStream, expected: int, **context: Any) -> str:
        resumed = services.resume_streams(
            streams=services.parked_like(obj), first=obj, expected=expected, most=RESUMED_AT_ONCE, **context
        )
        left = expected - resumed
        more = f" {left:,} are still parked for it: press again on one of them." if left else ""
        return f"{resumed:,} streams go on.{more}"

    return ObjectAction(
        "resume-alike",
        "Resume all with this error",
        permission=services.PERMISSION,
        run=run,
        form=type("AlikeForm", (forms.Form,), {"expected": expected}),
        available=lambda obj: "" if alike > 1 else "No other stream is parked for the same error.",
        consequences=lambda obj: (
            f"{alike:,} streams of {obj.group}, this one among them, are parked for: {obj.last_error}\n\n"
            f"{'All' if alike <= RESUMED_AT_ONCE else f'{RESUMED_AT_ONCE:,}'} of them go on from where they "
            "stopped. One that fails again parks again."
        ),
    )


def _skip_means(stream: OutboxStream) -> str:
    event = services.blocking_event(stream)
    if event is None:
        return "No event waits."
    return f"Nothing is skipped until a second person approves it.\n\n{outbox_skip.meaning(stream, event)}"


def _request_skip(*, obj: OutboxStream, **context: Any) -> str:
    outbox_skip.request_skip(stream=obj, **context)
    return "Requested. The event is skipped when a second person approves it."


@admin.register(OutboxStream)
class OutboxStreamAdmin(ConsoleAdmin):
    """One queue per aggregate and subscriber. Nothing is dropped; an event is skipped by two people only."""

    icon = "sync_alt"
    keyed_by = ("aggregate_type", "aggregate_id")
    list_display = ("subscriber", "aggregate", "condition", "since", "tries", "due", "error")
    list_filter = (ConditionFilter, LaneFilter, GroupFilter)
    search_fields = ("id__exact",)
    search_help_text = "Number, or aggregate:id"
    fields = (
        "aggregate", "subscriber", "lane", "condition", "where", "said", "what_to_do", "parked", "attempts",
        "tried", "due", "pending", "delivered",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "retry",
            "Retry now",
            permission=services.PERMISSION,
            run=lambda *, obj, **context: services.retry_stream(stream=obj, **context) and None,
            available=services.why_not_retry,
            consequences=lambda obj: f"{stands_at(obj)} It is delivered at once, its back-off forgotten.",
        ),
        ObjectAction(
            "park",
            "Park",
            permission=services.PERMISSION,
            run=lambda *, obj, **context: services.park_stream(stream=obj, **context) and None,
            available=services.why_not_park,
            consequences=lambda obj: (
                f"{stands_at(obj)} Nothing is delivered until somebody resumes the stream."
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
                f"{stands_at(obj)} Delivery goes on from there, in order. "
                f"It was parked because: {named(obj.parked_reason)}"
            ),
        ),
        ObjectAction(
            "skip",
            "Request a skip",
            permission=services.PERMISSION,
            run=_request_skip,
            available=services.why_not_skip,
            consequences=_skip_means,
            danger=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutboxStream]:
        return super().get_queryset(request).exclude(group="")

    def get_object_actions(self, request: HttpRequest, obj: Any) -> tuple[ObjectAction, ...]:
        return (*self.object_actions, _resume_alike(obj))

    @admin.display(description="Aggregate")
    def aggregate(self, obj: OutboxStream) -> SafeString:
        return subject_link(aggregate_label(obj.aggregate_type), obj.aggregate_id)

    @admin.display(description="Subscriber")
    def subscriber(self, obj: OutboxStream) -> str:
        return obj.group

    @admin.display(description="Condition")
    def condition(self, obj: OutboxStream) -> SafeString:
        return condition(obj)

    @admin.display(description="Since")
    def since(self, obj: OutboxStream) -> SafeString:
        """When it was parked, else when the oldest of what waits was recorded."""
        return instant(obj.parked_at or obj.pending_since)

    @admin.display(description="Stands at")
    def where(self, obj: OutboxStream) -> SafeString:
        return wide(stands_at(obj))

    @admin.display(description="What to do")
    def what_to_do(self, obj: OutboxStream) -> SafeString:
        return wide(advice(obj) or _what_it_waits_for(obj))

    @admin.display(description="Attempts")
    def tries(self, obj: OutboxStream) -> SafeString:
        return number(obj.attempts)

    @admin.display(description="Next attempt")
    def due(self, obj: OutboxStream) -> SafeString:
        return instant(obj.due_at)

    @admin.display(description="Waiting since")
    def pending(self, obj: OutboxStream) -> SafeString:
        return instant(obj.pending_since)

    @admin.display(description="Last tried")
    def tried(self, obj: OutboxStream) -> SafeString:
        return instant(obj.last_tried_at)

    @admin.display(description="Parked")
    def parked(self, obj: OutboxStream) -> SafeString:
        return instant(obj.parked_at)

    @admin.display(description="Reason or last error")
    def said(self, obj: OutboxStream) -> SafeString:
        return wide(named(obj.parked_reason) or obj.last_error)

    @admin.display(description="Delivered up to")
    def delivered(self, obj: OutboxStream) -> str:
        return f"#{obj.cursor}" if obj.cursor else "—"

    @admin.display(description="Reason or last error")
    def error(self, obj: OutboxStream) -> SafeString:
        return in_short(_SAID_BY.sub("", obj.parked_reason, count=1) or obj.last_error)


@admin.register(Circuit)
class CircuitAdmin(ConsoleAdmin):
    """The lines to providers. One that does not answer is asked by a single probe until it does; one that
    always has is not listed here, and found on the home page under Relay."""

    icon = "electrical_services"
    ordering = ("lane",)
    list_display = ("lane", "line", "opened", "next_probe", "said")
    search_fields = ("lane__exact",)
    search_help_text = "A provider's name"
    fields = ("lane", "line", "failed", "probes", "opened", "next_probe", "paused", "error")
    object_actions = (
        ObjectAction(
            "pause",
            "Pause",
            permission=services.PERMISSION,
            run=lambda *, obj, **context: services.pause_lane(lane=obj.lane, **context) and None,
            available=lambda obj: "Paused already." if obj.paused_at else "",
            consequences=lambda obj: (
                f"Nothing is sent to {obj.lane} until somebody resumes the line. Its streams wait, and "
                "do not count attempts; everything else goes on."
            ),
            danger=True,
        ),
        ObjectAction(
            "resume",
            "Resume",
            permission=services.PERMISSION,
            run=lambda *, obj, **context: services.resume_lane(lane=obj.lane, **context) and None,
            available=lambda obj: "" if obj.paused_at else "Not paused.",
            consequences=lambda obj: (
                f"What waits for {obj.lane} is sent. Paused for: {named(obj.paused_reason)}"
            ),
        ),
    )

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """A provider that has always answered has no row yet; its first button makes one."""
        found = super().get_object(request, object_id, from_field)
        if found is None and object_id in registry.providers():
            found = Circuit(lane=object_id)
            if request.method == "POST" and request.user.has_perm(services.PERMISSION):
                found, _ = Circuit.objects.get_or_create(lane=object_id)
        return found

    @admin.display(description="Line")
    def line(self, obj: Circuit) -> SafeString:
        return _line_badge(services.line_of(obj))

    @admin.display(description="Failures in a row")
    def failed(self, obj: Circuit) -> SafeString:
        return number(obj.failures)

    @admin.display(description="Probes that failed")
    def probes(self, obj: Circuit) -> SafeString:
        return number(obj.trips)

    @admin.display(description="No answer since")
    def opened(self, obj: Circuit) -> SafeString:
        return instant(obj.opened_at)

    @admin.display(description="Next probe")
    def next_probe(self, obj: Circuit) -> SafeString:
        return NOTHING if obj.paused_at else instant(obj.open_until)

    @admin.display(description="Reason or last error")
    def said(self, obj: Circuit) -> SafeString:
        return in_short(named(obj.paused_reason) or obj.last_error)

    @admin.display(description="Last error")
    def error(self, obj: Circuit) -> SafeString:
        return wide(obj.last_error)

    @admin.display(description="Paused")
    def paused(self, obj: Circuit) -> SafeString:
        if not obj.paused_at:
            return NOTHING
        return format_html("{} {}", instant(obj.paused_at), named(obj.paused_reason))


def _line_badge(word: str) -> SafeString:
    said = {"closed": "answers", "open": "does not answer", "paused": "paused"}[word]
    return badge(said, TONES[word])


def _what_it_waits_for(stream: OutboxStream) -> str:
    """About a stream that nobody parked: it goes by itself, unless its provider is held up."""
    line = services.line_of(Circuit.objects.filter(lane=stream.lane).first())
    if stream.due_at is None or line == "closed":
        return "Nothing: it goes by itself."
    if line == "paused":
        return f"A person paused the line to {stream.lane}: it goes on when somebody resumes the line."
    return f"{stream.lane} does not answer: it goes on by itself when a probe succeeds."


def _object_of(stream: OutboxStream, request: HttpRequest) -> SafeString:
    """What the stream is about: its state, what it holds, and the buttons that this person has there."""
    obj = _subject(stream)
    if obj is None:
        return SafeString()
    page = admin.site._registry.get(type(obj))
    payload = obj.event_payload() if hasattr(obj, "event_payload") else {}
    buttons = page.buttons(request, obj) if isinstance(page, ConsoleAdmin) else []
    allowed = format_html_join(
        " · ",
        '<a class="c-link" href="{}">{}</a>',
        ((button["url"], button["action"].label) for button in buttons if not button["why_not"]),
    )
    strip = facts(
        {str(obj._meta.verbose_name).capitalize(): link(obj), "May be done now": allowed or NOTHING}
    )
    return format_html("{}{}", strip, in_words(payload) if payload else "")


def _subject(stream: OutboxStream) -> Model | None:
    try:
        model = apps.get_model(aggregate_label(stream.aggregate_type))
        return model._default_manager.filter(pk=stream.aggregate_id).first()
    except (LookupError, ValueError, ValidationError):
        return None


def _failures_of(stream: OutboxStream, request: HttpRequest) -> SafeString:
    rows = [
        [
            failure.attempt,
            instant(failure.failed_at),
            failure.type,
            failure.error,
            badge("will be retried", "warn") if failure.retryable else badge("final", "bad"),
        ]
        for failure in stream.failures.order_by("-id")[:ROWS_SHOWN]
    ]
    return table([">Attempt", "Failed", "Event", "Error", "Kind"], rows, empty="No delivery has failed here.")


def _said_by_event(stream: OutboxStream, request: HttpRequest) -> SafeString:
    event = services.blocking_event(stream)
    return shown_json(traces.shown_payload(event)) if event else SafeString()


def _events_of(stream: OutboxStream, request: HttpRequest) -> SafeString:
    rows = [
        [event.sequence, link(event, event.type), instant(event.occurred_at)]
        for event in services.waiting_events(stream)[:ROWS_SHOWN]
    ]
    return table(["#", "Event", "Occurred"], rows, empty="Everything has been delivered.")


def _skips_of(stream: OutboxStream, request: HttpRequest) -> SafeString:
    rows = [
        [link(skip, f"{skip.type} #{skip.sequence}"), instant(skip.skipped_at), skip.reason, skip.error]
        for skip in stream.skips.order_by("-id")[:ROWS_SHOWN]
    ]
    return table(["Event", "Skipped", "Why", "It was parked for"], rows) if rows else SafeString()


def _requests_of(stream: OutboxStream, request: HttpRequest) -> SafeString:
    return approvals_of("outbox.outboxstream", stream.pk)


def _held_up(obj: Model, request: HttpRequest) -> SafeString:
    """On the page of what a stream is about: which subscribers are not told of it, and why."""
    held_up = OutboxStream.objects.filter(
        Q(parked_at__isnull=False) | Q(due_at__isnull=False, attempts__gt=0),
        aggregate_type=getattr(obj, "aggregate_type", ""),
        aggregate_id=str(obj.pk),
    )
    rows = [
        [
            link(stream, stream.group),
            condition(stream),
            instant(stream.parked_at or stream.pending_since),
            named(stream.parked_reason) or stream.last_error,
        ]
        for stream in held_up.order_by("group")[:ROWS_SHOWN]
    ]
    return table(["Subscriber", "Condition", "Since", "Why"], rows) if rows else SafeString()


def _waiting_for(circuit: Circuit, request: HttpRequest) -> SafeString:
    waiting = OutboxStream.objects.filter(lane=circuit.lane, due_at__isnull=False).order_by("due_at")
    rows = [
        [
            link(stream, stream.group),
            subject_link(aggregate_label(stream.aggregate_type), stream.aggregate_id),
            condition(stream),
            instant(stream.pending_since),
        ]
        for stream in waiting[:ROWS_SHOWN]
    ]
    return table(
        ["Subscriber", "Aggregate", "Condition", "Since"], rows, empty=f"Nothing waits for {circuit.lane}."
    )


def _parked(request: HttpRequest) -> CardValue:
    parked = services.parked_streams()
    oldest = parked.order_by("parked_at").values_list("parked_at", flat=True).first()
    return CardValue(parked[:10_000].count(), oldest)


def _relay(request: HttpRequest) -> SafeString:
    now = services.status(most=COUNTED)
    rows = [
        [
            _lane_link(lane.lane),
            _line_badge(lane.circuit) if lane.lane in registry.providers() else NOTHING,
            _streams_link(lane.parked, lane.lane),
            number(lane.due, most=COUNTED),
            age(lane.oldest_due_seconds) if lane.due or lane.working else NOTHING,
            number(lane.working, most=COUNTED),
            number(lane.waiting, most=COUNTED),
        ]
        for lane in now.lanes
    ]
    head = ["Lane", "Provider", ">Parked", ">Due now", ">Oldest due", ">Working", ">Waiting to retry"]
    return format_html(
        '<p class="c-about">How many streams each kind of worker has before it; {} {} not reached every '
        "subscriber yet.</p>{}",
        number(now.unpublished, most=COUNTED),
        "event has" if now.unpublished == 1 else "events have",
        table(head, rows),
    )


def _streams_link(count: int, lane: str) -> SafeString:
    if not count:
        return number(count)
    url = reverse("admin:outbox_outboxstream_changelist", query={"condition": "parked", "lane": lane})
    return format_html('<a class="c-link" href="{}">{}</a>', url, number(count, most=COUNTED))


def _lane_link(lane: str) -> SafeString:
    if lane not in registry.providers():
        return format_html("{}", lane)
    try:
        url = reverse("admin:outbox_circuit_change", args=[lane])
    except NoReverseMatch:
        return format_html("{}", lane)
    return format_html('<a class="c-link" href="{}">{}</a>', url, lane)


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
    Section("outbox.lag", "Relay", _relay, permission="outbox.view_outboxstream", order=90, half=False)
)
register_panel("outbox.outboxstream", title="What it is about", render=_object_of, order=1)
register_panel("outbox.outboxstream", title="Failures", render=_failures_of, order=2)
register_panel(
    "outbox.outboxstream",
    title="Payload of the event it stands at",
    render=_said_by_event,
    permission="outbox.view_outboxevent",
    order=2,
)
register_panel("outbox.outboxstream", title="Waiting events", render=_events_of, order=3)
register_panel("outbox.outboxstream", title="Requests to skip", render=_requests_of, order=4)
register_panel("outbox.outboxstream", title="Skipped events", render=_skips_of, order=5)
register_panel("outbox.circuit", title="What waits for it", render=_waiting_for)
for told_of in apps.get_models():
    if getattr(told_of, "aggregate_type", ""):
        register_panel(
            told_of._meta.label,
            title="Held up",
            render=_held_up,
            order=0,
            permission="outbox.view_outboxstream",
        )

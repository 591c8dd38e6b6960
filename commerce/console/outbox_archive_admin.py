"""Months of the outbox that left for files, and that came back."""

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce.console.base import ConsoleAdmin
from commerce.console.format import badge, instant, number
from commerce.outbox.models import OutboxArchive


@admin.register(OutboxArchive)
class OutboxArchiveAdmin(ConsoleAdmin):
    """Months of events that `outbox_archive` moved into files, and those it brought back. Streams need none
    of them: they count on."""

    icon = "archive"
    list_display = ("name", "what", "counted_events", "counted_failures", "noted", "actor")
    list_display_links = ("name",)
    fields = (
        "name", "what", "counted_events", "first_id", "last_id", "events_hash", "counted_failures",
        "failures_hash", "begins", "noted", "actor",
    )  # fmt: skip

    @admin.display(description="Month of recording")
    def name(self, obj: OutboxArchive) -> str:
        return f"{obj.month:%B %Y}"

    @admin.display(description="What")
    def what(self, obj: OutboxArchive) -> SafeString:
        return badge(obj.step)

    @admin.display(description="Events")
    def counted_events(self, obj: OutboxArchive) -> SafeString:
        return number(obj.events)

    @admin.display(description="Failures")
    def counted_failures(self, obj: OutboxArchive) -> SafeString:
        return number(obj.failures)

    @admin.display(description="SHA-256 of the events, uncompressed")
    def events_hash(self, obj: OutboxArchive) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.events_sha256)

    @admin.display(description="SHA-256 of the failures, uncompressed")
    def failures_hash(self, obj: OutboxArchive) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.failures_sha256)

    @admin.display(description="From then on, events begin at")
    def begins(self, obj: OutboxArchive) -> SafeString:
        return instant(obj.horizon)

    @admin.display(description="Noted")
    def noted(self, obj: OutboxArchive) -> SafeString:
        return instant(obj.noted_at)

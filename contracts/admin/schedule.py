"""The schedule in the console: every command with its state, and what comes next on a contract's page."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from commerce import clock
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import NOTHING, badge, in_short, instant, link
from commerce.console.registry import register_panel
from contracts import services
from contracts.admin.words import names_of, payload_in_words
from contracts.models import Contract, ScheduledCommand
from contracts.services.schedule import why_not_retry, why_not_skip
from contracts.services.upcoming import Upcoming, upcoming

SHOWN = 20
TONES = {"planned": "busy", "blocked": "bad", "done": "good"}


@admin.register(ScheduledCommand)
class ScheduledCommandAdmin(ConsoleAdmin):
    """What contracts' logs imply for later instants. Each is done once, as of its own instant."""

    icon = "event_upcoming"
    list_display = ("kind", "contract_link", "due", "shown_status", "edit", "trouble")
    list_filter = ("status", "kind")
    list_select_related = ("contract",)
    search_fields = ("contract__number__startswith", "key__exact", "id__exact")
    search_help_text = "How the contract's number begins, the key, or the id."
    fields = (
        "contract_link", "kind", "due", "shown_status", "operation", "shown_payload", "edit", "planned",
        "ended", "attempts", "last_error", "key",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "skip",
            "Skip",
            permission="contracts.cancel_scheduledcommand",
            run=lambda *, obj, **context: services.skip_command(command=obj, **context) and None,
            available=why_not_skip,
            consequences=lambda obj: (
                f"It is not done on {obj.due_at:%-d %B %Y}. The contract's log is left as it is."
            ),
            danger=True,
        ),
        ObjectAction(
            "retry",
            "Run now",
            permission="contracts.retry_scheduledcommand",
            run=lambda *, obj, **context: services.retry_command(command=obj, **context) and None,
            available=why_not_retry,
            consequences=lambda obj: (
                f"It is tried again at the next tick, as of {obj.due_at:%-d %B %Y %H:%M} UTC."
            ),
        ),
    )

    @admin.display(description="Contract")
    def contract_link(self, obj: ScheduledCommand) -> SafeString:
        return link(obj.contract)

    @admin.display(description="Due")
    def due(self, obj: ScheduledCommand) -> SafeString:
        return instant(obj.due_at)

    @admin.display(description="Status")
    def shown_status(self, obj: ScheduledCommand) -> SafeString:
        return badge(obj.status, TONES.get(obj.status, ""))

    @admin.display(description="Recorded")
    def edit(self, obj: ScheduledCommand) -> str:
        return f"edit #{obj.result_seq}" if obj.result_seq else "—"

    @admin.display(description="Trouble")
    def trouble(self, obj: ScheduledCommand) -> SafeString:
        return in_short(obj.last_error)

    @admin.display(description="What")
    def shown_payload(self, obj: ScheduledCommand) -> Any:
        state = obj.contract.current
        return payload_in_words(obj.payload, names_of(state), state.currency) or NOTHING

    @admin.display(description="Planned")
    def planned(self, obj: ScheduledCommand) -> SafeString:
        return instant(obj.planned_at)

    @admin.display(description="Ended")
    def ended(self, obj: ScheduledCommand) -> SafeString:
        return instant(obj.finished_at)


def what_comes_next(contract: Contract, request: HttpRequest) -> SafeString:
    now = clock.now()
    rows = [
        (instant(item.at), link(item.command, item.title) if item.command else item.title, _state(item))
        for item in upcoming(contract, at=now)[:SHOWN]
    ]
    return table(["When", "What", "State"], rows, empty="Nothing is planned.")


def _state(item: Upcoming) -> SafeString | str:
    if item.command:
        return badge(item.command.status, TONES[item.command.status])
    return ", ".join(f"edit #{seq}" for seq in item.edits) if item.edits else NOTHING


register_panel("contracts.contract", title="What comes next", render=what_comes_next, order=6, tab="Timeline")

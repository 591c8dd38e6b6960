"""Approvals in the console: who asked for what, what it would do, and the buttons of those who decide."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, Min, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce import clock, states
from commerce.actor import Actor
from commerce.console import approvals
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.format import NOTHING, badge, instant, money, subject, subject_link
from commerce.console.models import Approval, ApprovalStatus
from commerce.console.panels import readable
from commerce.console.registry import Card, CardValue, register_card, register_panel
from commerce.errors import NotFound


def _approve(*, obj: Approval, **context: Any) -> str:
    decided = approvals.approve(approval=obj, **context)
    if decided.status == ApprovalStatus.CANCELLED:
        return f"{obj.title}: nothing was done, and the request is closed. {decided.decision}"
    return f"{obj.title}: approved and done."


def _reject(*, obj: Approval, **context: Any) -> str:
    approvals.reject(approval=obj, **context)
    return f"{obj.title}: rejected; nothing was done."


def _cancel(*, obj: Approval, **context: Any) -> str:
    approvals.cancel(approval=obj, **context)
    return f"{obj.title}: withdrawn; nothing was done."


def _described(approval: Approval) -> str:
    """What it does; without the line breaks of markup, which would become paragraphs."""
    said = approvals.describe(approval)
    return SafeString(said.replace("\n", " ")) if isinstance(said, SafeString) else said


def _effect(approval: Approval) -> SafeString:
    return format_html(
        "{}\n\nRequested by {}: {}", _described(approval), approval.maker_name, approval.reason
    )


def _nothing(approval: Approval) -> str:
    return f"Nothing is done. {approval.maker_name} may request it again."


def _buttons(approval: Approval, actor: Actor) -> tuple[ObjectAction, ...]:
    """Who may press them depends on the operation; an operation that is gone leaves none."""
    try:
        operation = approvals.operation_of(approval)
    except NotFound:
        return ()
    return (
        ObjectAction(
            "approve",
            "Approve",
            permission=operation.checker,
            run=_approve,
            available=lambda obj: approvals.ends_waiting(obj, clock.now()) or approvals.bars(obj, actor),
            consequences=_effect,
        ),
        ObjectAction(
            "reject",
            "Reject",
            permission=operation.checker,
            run=_reject,
            available=lambda obj: states.available(obj, "reject") or approvals.bars(obj, actor),
            consequences=_nothing,
            danger=True,
        ),
        ObjectAction(
            "cancel",
            "Cancel",
            permission=operation.maker,
            run=_cancel,
            available=lambda obj: states.available(obj, "cancel"),
            consequences=_nothing,
            danger=True,
        ),
    )


@admin.register(Approval)
class ApprovalAdmin(ConsoleAdmin):
    """What one person has requested and another must agree to before it happens."""

    icon = "how_to_reg"
    keyed_by = ("subject_type", "subject_id")
    list_display = ("title", "subject_of", "shown_state", "shown_value", "asked_by", "requested", "expires")
    list_filter = ("status",)
    search_fields = ("id__exact", "key__exact")
    search_help_text = "Id, the requester's key, or the subject as model:id."
    fields = (
        "title", "operation", "subject", "shown_state", "shown_value", "asked_by", "reason", "requested",
        "expires", "decided_by", "decision", "decided", "outcome", "shown_hash",
    )  # fmt: skip

    def get_object_actions(self, request: HttpRequest, obj: Any) -> tuple[ObjectAction, ...]:
        return _buttons(obj, Actor.for_user(request.user))

    @admin.display(description="Subject")
    def subject_of(self, obj: Approval) -> SafeString:
        return subject_link(obj.subject_type, obj.subject_id)

    @admin.display(description="Subject")
    def subject(self, obj: Approval) -> SafeString:
        return subject(obj.subject_type, obj.subject_id)

    @admin.display(description="State")
    def shown_state(self, obj: Approval) -> SafeString:
        return badge(obj.status)

    @admin.display(description="At stake")
    def shown_value(self, obj: Approval) -> SafeString:
        return money(obj.value_minor, obj.currency)

    @admin.display(description="Requested by")
    def asked_by(self, obj: Approval) -> str:
        return obj.maker_name

    @admin.display(description="Decided by")
    def decided_by(self, obj: Approval) -> str:
        return obj.checker_name or NOTHING

    @admin.display(description="Requested")
    def requested(self, obj: Approval) -> SafeString:
        return instant(obj.requested_at)

    @admin.display(description="Expires")
    def expires(self, obj: Approval) -> SafeString:
        return instant(obj.expires_at)

    @admin.display(description="Decided")
    def decided(self, obj: Approval) -> SafeString:
        return instant(obj.decided_at)

    @admin.display(description="Outcome")
    def outcome(self, obj: Approval) -> SafeString:
        return subject(obj.result_type, obj.result_id) if obj.result_id else NOTHING

    @admin.display(description="SHA-256 of what was requested")
    def shown_hash(self, obj: Approval) -> SafeString:
        seal = badge("matches", "good") if approvals.is_bound(obj) else badge("does not match", "bad")
        return format_html('<span class="c-mono">{}</span> {}', obj.sha256, seal)


register_panel(
    "console.approval",
    title="What it does",
    render=lambda approval, request: format_html("<p>{}</p>", _described(approval)),
)
register_panel(
    "console.approval",
    title="Arguments",
    render=lambda approval, request: readable(approval.arguments),
    order=20,
)


def _mine(request: HttpRequest) -> CardValue:
    """What waits for this very person: operations they may check, requested by others, not expired."""
    names = [
        operation.name for operation in approvals.operations() if request.user.has_perm(operation.checker)
    ]
    waiting = Approval.objects.filter(
        status=ApprovalStatus.PENDING, operation__in=names, expires_at__gt=clock.now()
    ).exclude(maker=str(Actor.for_user(request.user)))
    rows = waiting.values("currency").annotate(
        count=Count("pk"), oldest=Min("requested_at"), minor=Sum("value_minor")
    )
    found = list(rows)
    return CardValue(
        count=sum(row["count"] for row in found),
        oldest=min((row["oldest"] for row in found), default=None),
        value={row["currency"]: row["minor"] for row in found if row["minor"]},
    )


register_card(
    Card(
        "console.approval",
        "To approve",
        lambda: reverse("admin:console_approval_changelist") + "?status__exact=pending",
        _mine,
        empty="Nothing waits for your approval.",
        permission="console.view_approval",
        order=5,
    )
)

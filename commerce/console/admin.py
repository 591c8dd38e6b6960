"""The console's own pages: the review queue, the relay, webhooks, state changes, keys, people."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Count, Min, QuerySet, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget

from commerce import clock, states
from commerce.api.models import ApiKey
from commerce.api.services import revoke_key
from commerce.console import (  # noqa: F401
    approvals_admin,
    export_admin,
    outbox_admin,
    outbox_archive_admin,
    outbox_events_admin,
    services,
)
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.format import badge, instant, money, shown_json, subject, subject_link
from commerce.console.models import Resolution, ReviewItem
from commerce.console.panels import in_words
from commerce.console.registry import Card, CardValue, register_card
from commerce.models import TransitionLog
from commerce.providers.models import ProviderEvent

admin.site.unregister([User, Group])


class SnoozeForm(forms.Form):
    days = forms.TypedChoiceField(
        label="Until",
        coerce=int,
        choices=[(1, "tomorrow"), (3, "in three days"), (7, "in a week"), (30, "in thirty days")],
        widget=UnfoldAdminSelectWidget,
    )


class ResolveForm(forms.Form):
    code = forms.ChoiceField(
        label="Resolution",
        choices=[choice for choice in Resolution.choices if choice[0] != Resolution.CLEARED],
        widget=UnfoldAdminSelectWidget,
    )


def _snooze(*, obj: ReviewItem, days: int, at: Any, **context: Any) -> None:
    services.snooze_review(item=obj, until=at + timedelta(days=days), at=at, **context)


@admin.register(ReviewItem)
class ReviewItemAdmin(ConsoleAdmin):
    """What the system could not decide. Claim an item, settle what it asks, resolve it with a code."""

    icon = "inbox"
    list_display = ("title", "kind_in_words", "state", "value_at_stake", "opened", "assignee")
    list_filter = ("status", "resolution")
    search_fields = ("subject_id__exact", "id__exact")
    search_help_text = "The subject's id."
    fields = (
        "title", "kind_in_words", "state", "value_at_stake", "opened", "subject", "assignee", "snoozed",
        "resolution", "detail", "note", "shown_evidence",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "claim",
            "Claim",
            permission="console.claim_reviewitem",
            run=lambda *, obj, **context: services.claim_review(item=obj, **context) and None,
            available=lambda obj: states.available(obj, "claim"),
            consequences=lambda obj: "The item becomes yours; others see that you work on it.",
            reason_required=False,
        ),
        ObjectAction(
            "give-back",
            "Give back",
            permission="console.claim_reviewitem",
            run=lambda *, obj, **context: services.give_back_review(item=obj, **context) and None,
            available=lambda obj: states.available(obj, "give_back"),
            consequences=lambda obj: f"The item leaves {obj.assignee} and returns to the queue.",
            reason_required=False,
        ),
        ObjectAction(
            "snooze",
            "Snooze",
            permission="console.snooze_reviewitem",
            run=_snooze,
            form=SnoozeForm,
            available=lambda obj: states.available(obj, "snooze"),
            consequences=lambda obj: "The item leaves the queue and comes back at the time you choose.",
        ),
        ObjectAction(
            "resolve",
            "Resolve",
            permission="console.resolve_reviewitem",
            run=lambda *, obj, **context: services.resolve_review(item=obj, **context) and None,
            form=ResolveForm,
            available=lambda obj: states.available(obj, "resolve"),
            consequences=lambda obj: (
                "The item is closed for good; the same problem later opens a new one. "
                "Resolving changes nothing about the subject itself."
            ),
        ),
    )

    @admin.display(description="State")
    def state(self, obj: ReviewItem) -> SafeString:
        return badge(obj.status)

    @admin.display(description="Kind")
    def kind_in_words(self, obj: ReviewItem) -> str:
        return obj.kind.replace("_", " ").capitalize()

    @admin.display(description="At stake")
    def value_at_stake(self, obj: ReviewItem) -> SafeString:
        return money(obj.value_minor, obj.currency)

    @admin.display(description="Opened")
    def opened(self, obj: ReviewItem) -> SafeString:
        return instant(obj.opened_at)

    @admin.display(description="Snoozed until")
    def snoozed(self, obj: ReviewItem) -> SafeString:
        return instant(obj.snoozed_until)

    @admin.display(description="Subject")
    def subject(self, obj: ReviewItem) -> SafeString:
        return subject(obj.subject_type, obj.subject_id)

    @admin.display(description="Evidence")
    def shown_evidence(self, obj: ReviewItem) -> SafeString:
        return in_words(obj.evidence)


@admin.register(ProviderEvent)
class ProviderEventAdmin(ConsoleAdmin):
    """Webhooks as they came in, each once. What became of one is in the relay."""

    icon = "webhook"
    keyed_by = ("provider", "object_id")
    list_display = ("topic_event", "provider", "object_id", "shown_state", "received")
    list_filter = ("state",)
    search_fields = ("id__exact",)
    search_help_text = "Our id, or provider:object id"
    fields = ("provider", "topic_event", "object_id", "delivery_id", "shown_state", "received", "shown_body")

    @admin.display(description="Event")
    def topic_event(self, obj: ProviderEvent) -> str:
        return f"{obj.topic}.{obj.event}"

    @admin.display(description="State")
    def shown_state(self, obj: ProviderEvent) -> SafeString:
        return badge(obj.state, "good" if obj.state == "received" else "plain")

    @admin.display(description="Received")
    def received(self, obj: ProviderEvent) -> SafeString:
        return instant(obj.received_at)

    @admin.display(description="Body")
    def shown_body(self, obj: ProviderEvent) -> SafeString:
        return shown_json(obj.body)


@admin.register(TransitionLog)
class TransitionLogAdmin(ConsoleAdmin):
    """Every change of state: who, why, in which request. Never changed, never removed."""

    icon = "history"
    keyed_by = ("model", "object_id")
    list_display = ("happened", "subject_of", "change", "actor", "reason")
    search_fields = ("id__exact",)
    search_help_text = "model:id, as payouts.payout:0192…"
    fields = ("subject", "field", "name", "change", "actor", "reason", "request_id", "happened", "recorded")

    @admin.display(description="Subject")
    def subject_of(self, obj: TransitionLog) -> SafeString:
        return subject_link(obj.model, obj.object_id)

    @admin.display(description="Subject")
    def subject(self, obj: TransitionLog) -> SafeString:
        return subject(obj.model, obj.object_id)

    @admin.display(description="Change")
    def change(self, obj: TransitionLog) -> SafeString:
        return format_html('<span class="c-change">{} → {}</span>', badge(obj.source), badge(obj.target))

    @admin.display(description="At")
    def happened(self, obj: TransitionLog) -> SafeString:
        return instant(obj.at)

    @admin.display(description="Recorded")
    def recorded(self, obj: TransitionLog) -> SafeString:
        return instant(obj.recorded_at)


@admin.register(ApiKey)
class ApiKeyAdmin(ConsoleAdmin):
    """Keys of integrations. A key is issued on the command line, where it is shown once."""

    icon = "vpn_key"
    list_display = ("label", "key", "organization", "state", "expires", "used")
    list_select_related = ("organization",)
    search_fields = ("prefix__exact",)
    search_help_text = "The prefix: the part after ck_live_"
    fields = (
        "label", "key", "organization", "shown_scopes", "state", "created", "created_by", "expires",
        "revoked", "used",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "revoke",
            "Revoke",
            permission="api.revoke_apikey",
            run=lambda *, obj, **context: revoke_key(key=obj, **context) and None,
            available=lambda obj: "Revoked before." if obj.revoked_at else "",
            consequences=lambda obj: (
                f"From now on every request with this key of {obj.organization} is refused. "
                "A revoked key cannot be revived."
            ),
            danger=True,
        ),
    )

    @admin.display(description="Key")
    def key(self, obj: ApiKey) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.shown)

    @admin.display(description="State")
    def state(self, obj: ApiKey) -> SafeString:
        return badge(obj.status)

    @admin.display(description="Scopes")
    def shown_scopes(self, obj: ApiKey) -> str:
        return ", ".join(obj.scopes)

    @admin.display(description="Created")
    def created(self, obj: ApiKey) -> SafeString:
        return instant(obj.created_at)

    @admin.display(description="Expires")
    def expires(self, obj: ApiKey) -> SafeString:
        return instant(obj.expires_at)

    @admin.display(description="Revoked")
    def revoked(self, obj: ApiKey) -> SafeString:
        return instant(obj.revoked_at)

    @admin.display(description="Last used")
    def used(self, obj: ApiKey) -> SafeString:
        return instant(obj.last_used_at)


@admin.register(LogEntry)
class LogEntryAdmin(ConsoleAdmin):
    """Who pressed what in the console."""

    icon = "fact_check"
    list_display = ("happened", "user", "content_type", "object_repr", "change_message")
    list_select_related = ("user", "content_type")
    fields = ("happened", "user", "content_type", "object_repr", "object_id", "change_message")

    @admin.display(description="At")
    def happened(self, obj: LogEntry) -> SafeString:
        return instant(obj.action_time)


class PersonForm(UserChangeForm):
    """Maker is never checker: nobody is in a group that operates and in one that approves."""

    def clean_groups(self) -> Any:
        groups = self.cleaned_data["groups"]
        if {"operator", "approver"} <= {group.name for group in groups}:
            raise forms.ValidationError("Operator and approver are never the same person.")
        return groups


@admin.register(User)
class UserAdmin(ConsoleAdmin, DjangoUserAdmin):
    """People. Groups say what they may do; nobody is removed, only deactivated."""

    icon = "person"
    form = PersonForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_staff", "last_login")
    list_filter = ("is_active", "is_staff")
    search_fields = ("username__exact", "username__startswith")
    search_help_text = "The user name, or how it begins."
    ordering = ("-id",)
    readonly_fields = ("last_login", "date_joined", "is_superuser")
    filter_horizontal = ("groups",)
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Access", {"fields": ("is_active", "is_staff", "is_superuser", "groups")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("auth.add_user")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes a superuser who is none, nor their own groups."""
        if obj is not None and (obj == request.user or obj.is_superuser) and not request.user.is_superuser:
            return False
        return request.user.has_perm("auth.change_user")


@admin.register(Group)
class GroupAdmin(ConsoleAdmin, DjangoGroupAdmin):
    """What each group may do. Groups are made by code with every migration."""

    icon = "group"
    list_display = ("name", "size")
    search_fields = ("name__exact",)
    fields = ("name", "shown_permissions")
    readonly_fields = ("shown_permissions",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        return super().get_queryset(request).prefetch_related("permissions__content_type")

    @admin.display(description="Permissions")
    def size(self, obj: Group) -> int:
        return len(obj.permissions.all())

    @admin.display(description="Permissions")
    def shown_permissions(self, obj: Group) -> str:
        return ", ".join(sorted(f"{p.content_type.app_label}.{p.codename}" for p in obj.permissions.all()))


def _waiting(request: HttpRequest) -> CardValue:
    """Items nobody has resolved and whose snooze, if any, is over; value per currency."""
    items = ReviewItem.objects.exclude(status="resolved").exclude(snoozed_until__gt=clock.now())
    rows = items.values("currency").annotate(
        count=Count("pk"), oldest=Min("opened_at"), minor=Sum("value_minor")
    )
    found = list(rows)
    return CardValue(
        count=sum(row["count"] for row in found),
        oldest=min((row["oldest"] for row in found), default=None),
        value={row["currency"]: row["minor"] for row in found if row["minor"]},
    )


register_card(
    Card(
        key="console.review",
        title="Review items",
        url=lambda: reverse("admin:console_reviewitem_changelist") + "?status__in=open,claimed,snoozed",
        load=_waiting,
        empty="No question is open.",
        permission="console.view_reviewitem",
        order=10,
    )
)

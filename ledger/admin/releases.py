"""Releases in the console: held, lifted and cancelled through their services."""

from django.contrib import admin
from django.db.models import Count, Min, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from commerce import clock, states
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.format import badge, instant, link, money, shortened, subject, subject_link
from commerce.console.registry import Card, CardValue, register_card
from ledger import services
from ledger.admin.parts import subject_of
from ledger.models import LedgerRelease


@admin.register(LedgerRelease)
class LedgerReleaseAdmin(ConsoleAdmin):
    """Payees' money on its way from Pay-in Holding to Payable."""

    icon = "hourglass_bottom"
    list_display = ("release_name", "owner_link", "shown_amount", "shown_status", "due", "source_link")
    list_filter = ("status",)
    list_select_related = ("owner",)
    search_fields = ("id__exact", "key__exact", "source__exact")
    search_help_text = "Id, key or source."
    fields = ("owner_link", "shown_amount", "shown_status", "due", "scheduled", "posting", "cause", "key")
    object_actions = (
        ObjectAction(
            "hold",
            "Hold",
            permission="ledger.hold_ledgerrelease",
            run=lambda *, obj, **context: services.hold_release(release=obj, **context) and None,
            available=lambda obj: states.available(obj, "hold"),
            consequences=lambda obj: f"{obj} stays in Pay-in Holding until the hold is lifted.",
        ),
        ObjectAction(
            "lift",
            "Lift hold",
            permission="ledger.hold_ledgerrelease",
            run=lambda *, obj, **context: services.lift_release(release=obj, **context) and None,
            available=lambda obj: states.available(obj, "lift"),
            consequences=lambda obj: f"{obj} is released {_when(obj)}, and may then be paid out.",
        ),
        ObjectAction(
            "cancel",
            "Cancel",
            permission="ledger.cancel_ledgerrelease",
            run=lambda *, obj, **context: services.cancel_release(release=obj, **context) and None,
            available=lambda obj: states.available(obj, "cancel"),
            consequences=lambda obj: f"{obj} is never released. The money stays in Pay-in Holding for good.",
            danger=True,
        ),
    )

    @admin.display(description="Release")
    def release_name(self, obj: LedgerRelease) -> str:
        return shortened(str(obj.pk))

    @admin.display(description="Cause")
    def source_link(self, obj: LedgerRelease) -> SafeString:
        return subject_link(*subject_of(obj.source))

    @admin.display(description="Cause")
    def cause(self, obj: LedgerRelease) -> SafeString:
        return subject(*subject_of(obj.source))

    @admin.display(description="Payee")
    def owner_link(self, obj: LedgerRelease) -> SafeString:
        return link(obj.owner)

    @admin.display(description="Amount")
    def shown_amount(self, obj: LedgerRelease) -> SafeString:
        return money(obj.amount_minor, obj.currency)

    @admin.display(description="Status")
    def shown_status(self, obj: LedgerRelease) -> SafeString:
        return badge(obj.status, "busy" if obj.status == LedgerRelease.Status.SCHEDULED else "")

    @admin.display(description="Due")
    def due(self, obj: LedgerRelease) -> SafeString:
        return instant(obj.due_at)

    @admin.display(description="Scheduled")
    def scheduled(self, obj: LedgerRelease) -> SafeString:
        return instant(obj.scheduled_at)

    @admin.display(description="Posted by")
    def posting(self, obj: LedgerRelease) -> SafeString:
        return link(obj.transaction)


def _when(release: LedgerRelease) -> str:
    if release.due_at <= clock.now():
        return "at once"
    return f"on {release.due_at.day} {release.due_at:%B %Y}"


def _held(request: HttpRequest) -> CardValue:
    rows = list(
        LedgerRelease.objects.filter(status=LedgerRelease.Status.HELD)
        .values("currency")
        .annotate(count=Count("pk"), oldest=Min("due_at"), minor=Sum("amount_minor"))
        .order_by("currency")
    )
    now = clock.now()
    return CardValue(
        count=sum(row["count"] for row in rows),
        oldest=min((row["oldest"] for row in rows if row["oldest"] <= now), default=None),
        value={row["currency"]: row["minor"] for row in rows},
    )


register_card(
    Card(
        key="ledger.held",
        title="Releases on hold",
        url=lambda: reverse("admin:ledger_ledgerrelease_changelist") + "?status__exact=held",
        load=_held,
        empty="No payee waits for a decision.",
        permission="ledger.view_ledgerrelease",
        order=40,
    )
)

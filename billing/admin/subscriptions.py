"""Subscriptions in the console: how far OpenMeter follows each contract, and what differs there and why."""

from datetime import datetime

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing import services
from billing.models import SubscriptionSync
from commerce.actor import Actor
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import badge, instant, link, money
from commerce.console.registry import register_panel


def _sync(*, obj: SubscriptionSync, actor: Actor, at: datetime, reason: str) -> str:
    services.request_sync(sync=obj, actor=actor, at=at)
    return "OpenMeter is asked in a moment; look at the page again."


@admin.register(SubscriptionSync)
class SubscriptionSyncAdmin(ConsoleAdmin):
    """OpenMeter's subscription of each owner of a contract. What it cannot bill is ours, and expected."""

    icon = "sync_alt"
    list_display = ("contract_link", "owner_epoch", "state", "followed", "compared", "subscription_id")
    list_select_related = ("contract",)
    list_display_links = ("state",)
    search_fields = ("contract__number__exact", "subscription_id__exact", "customer_key__exact", "id__exact")
    search_help_text = "The contract's number, OpenMeter's id or key, or our id."
    fields = (
        "contract_link", "owner_epoch", "state", "followed", "followed_on", "ended", "compared",
        "customer_key", "customer_id", "subscription_id",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            name="sync",
            label="Sync and compare",
            permission="billing.request_sync",
            run=_sync,
            consequences=lambda sync: (
                f"OpenMeter's items of {sync.contract} become what the contract wants, where they differ. "
                "What was billed there already stays as it is."
            ),
        ),
    )

    @admin.display(description="Contract")
    def contract_link(self, obj: SubscriptionSync) -> SafeString:
        return link(obj.contract)

    @admin.display(description="State")
    def state(self, obj: SubscriptionSync) -> SafeString:
        if obj.ended_at:
            return badge("ended")
        if obj.drifts:
            return badge("drift", "bad")
        return badge("drift: expected", "warn") if obj.drift else badge("in step", "good")

    @admin.display(description="Followed")
    def followed(self, obj: SubscriptionSync) -> str:
        return f"version {obj.applied_version} of {obj.contract.version}"

    @admin.display(description="Followed on")
    def followed_on(self, obj: SubscriptionSync) -> SafeString:
        return instant(obj.synced_at)

    @admin.display(description="Ended")
    def ended(self, obj: SubscriptionSync) -> SafeString:
        return instant(obj.ended_at)

    @admin.display(description="Compared")
    def compared(self, obj: SubscriptionSync) -> SafeString:
        return instant(obj.checked_at)


def differences(sync: SubscriptionSync, request: HttpRequest) -> SafeString:
    currency = sync.contract.currency
    return table(
        ("What", ">The contract says", ">OpenMeter will bill", "Expected"),
        [
            (
                row["what"],
                money(row["ours_minor"], currency) if "ours_minor" in row else "",
                money(row["theirs_minor"], currency) if "theirs_minor" in row else "",
                "; ".join(row["reasons"]) or badge("no reason known", "bad"),
            )
            for row in sync.drift
        ],
        empty="OpenMeter is going to bill what the contract says."
        if sync.checked_at
        else "They were not compared yet.",
    )


register_panel("billing.subscriptionsync", title="Differences", render=differences, order=1)

"""Settlements, payouts and payee policies in the console: their lists, pages and buttons."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.format import badge, instant, link, money, shortened, subject_link
from commerce.money import CURRENCIES, Money
from commerce.states import available
from ledger.models import LedgerTransaction
from payouts import services
from payouts.models import AT_THE_BANK, PayeePolicy, Payout, Settlement, SettlementLeg

POLL = "payouts.poll_payout"


# What the buttons run


def _poll_settlement(*, obj: Settlement, actor: Any, at: Any, reason: str) -> str:
    services.request_settlement_poll(settlement=obj, actor=actor, at=at)
    return "The bank is asked now; the page shows the answers when they are there."


def _poll_payout(*, obj: Payout, actor: Any, at: Any, reason: str) -> str:
    services.request_poll(payout=obj, actor=actor, at=at)
    return "The bank is asked now; the page shows the answer when it is there."


def _give_up(*, obj: Payout, **context: Any) -> str:
    services.request_giving_up(payout=obj, **context)
    return "Requested. The bank is asked when a second person approves it."


def _approve(*, obj: Payout, **context: Any) -> None:
    services.approve_payout(payout=obj, **context)


def _reject(*, obj: Payout, **context: Any) -> None:
    services.reject_payout(payout=obj, **context)


def _cancel(*, obj: Payout, **context: Any) -> None:
    services.cancel_payout(payout=obj, **context)


def _hold(*, obj: SettlementLeg, **context: Any) -> None:
    services.hold_leg(leg=obj, **context)


def _lift(*, obj: SettlementLeg, **context: Any) -> None:
    services.lift_leg(leg=obj, **context)


def _set_policy(*, obj: PayeePolicy, **context: Any) -> None:
    services.set_policy(organization=obj.organization, **context)


def _unblock(*, obj: PayeePolicy, **context: Any) -> None:
    services.unblock_account(policy=obj, **context)


def _request(*, obj: PayeePolicy, currency: str, amount: str, **context: Any) -> str:
    asked = Money.parse(amount, currency) if amount else None
    payout = services.request_payout(payee=obj.organization, currency=currency, amount=asked, **context)
    return f"A payout of {payout.amount} is requested and waits for a second person."


def _may_poll(payout: Payout) -> str:
    return "" if payout.status in (*AT_THE_BANK, "paid") else "It is not at the bank."


def _nothing_at_the_bank(settlement: Settlement) -> str:
    payouts = Payout.objects.filter(items__leg__settlement=settlement)
    at_bank = payouts.filter(status__in=[*AT_THE_BANK, "paid"]).exists()
    return "" if at_bank else "None of its payouts is at the bank yet."


class PolicyForm(forms.Form):
    mode = forms.ChoiceField(choices=PayeePolicy.Mode.choices, widget=UnfoldAdminSelectWidget)
    cadence = forms.ChoiceField(
        choices=[("", "—"), *PayeePolicy.Cadence.choices],
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="For a schedule.",
    )
    day = forms.IntegerField(
        min_value=1,
        max_value=31,
        required=False,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="For a schedule. Weekly: 1 Monday to 7 Sunday. Monthly: day of the month.",
    )
    minimum_minor = forms.IntegerField(
        min_value=0,
        initial=0,
        label="Minimum, in minor units",
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Smaller sums wait.",
    )


class RequestForm(forms.Form):
    currency = forms.ChoiceField(
        choices=[(code, code) for code in sorted(CURRENCIES)], initial="USD", widget=UnfoldAdminSelectWidget
    )
    amount = forms.CharField(
        required=False,
        max_length=30,
        widget=UnfoldAdminTextInputWidget,
        help_text="Such as 1250.00; empty pays out all that is payable.",
    )


# Pages


class AnswerFilter(admin.SimpleListFilter):
    """What the home page counts."""

    title = "answer of the bank"
    parameter_name = "answer"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("missing", "missing")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Payout]) -> models.QuerySet[Payout]:
        return queryset & services.unanswered_payouts() if self.value() == "missing" else queryset


class PayoutsAdmin(ConsoleAdmin):
    """What the pages of this app share: a state, an amount and a payee."""

    @admin.display(description="State")
    def shown_state(self, obj: Any) -> SafeString:
        return badge(obj.status)

    @admin.display(description="Amount")
    def shown_amount(self, obj: Any) -> SafeString:
        return money(obj.amount_minor, obj.currency)

    @admin.display(description="Payee")
    def payee_link(self, obj: Any) -> SafeString:
        return link(obj.payee)


@admin.register(Settlement)
class SettlementAdmin(PayoutsAdmin):
    """The journey of each paid invoice to its payees."""

    icon = "account_tree"
    list_display = ("invoice_number", "contract_number", "shown_state", "shown_total", "shown_paid")
    list_filter = ("status",)
    search_fields = ("id__exact", "invoice_number__exact", "contract_number__exact")
    search_help_text = "Id, or the number of the invoice or the contract."
    fields = (
        "shown_state", "shown_total", "invoice_link", "contract_link", "buyer_link", "shown_paid",
        "collection", "seasoning_days",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "poll",
            "Poll now",
            permission=POLL,
            run=_poll_settlement,
            available=_nothing_at_the_bank,
            consequences=lambda obj: "The bank is asked where the payouts of this settlement stand.",
            reason_required=False,
        ),
    )

    @admin.display(description="Invoice")
    def invoice_link(self, obj: Settlement) -> SafeString:
        return subject_link("billing.invoice", obj.invoice_id, obj.invoice_number)

    @admin.display(description="Contract")
    def contract_link(self, obj: Settlement) -> SafeString:
        return subject_link("contracts.contract", obj.contract_id, obj.contract_number)

    @admin.display(description="Collected by")
    def collection(self, obj: Settlement) -> SafeString:
        return link(LedgerTransaction.objects.filter(pk=obj.transaction_id).first())

    @admin.display(description="Buyer")
    def buyer_link(self, obj: Settlement) -> SafeString:
        return link(obj.buyer)

    @admin.display(description="Total")
    def shown_total(self, obj: Settlement) -> SafeString:
        return money(obj.total_minor, obj.currency)

    @admin.display(description="Invoice paid")
    def shown_paid(self, obj: Settlement) -> SafeString:
        return instant(obj.paid_at)


@admin.register(SettlementLeg)
class SettlementLegAdmin(PayoutsAdmin):
    """One payee's share of a settlement. A hold keeps it from being released."""

    icon = "call_split"
    list_display = ("leg", "settlement_link", "payee_link", "shown_state", "shown_amount", "shown_due")
    list_filter = ("kind", "status")
    list_select_related = ("settlement", "payee")
    search_fields = ("id__exact", "settlement__invoice_number__exact")
    search_help_text = "Id, or the number of the invoice."
    fields = (
        "shown_state", "shown_amount", "kind", "payee_link", "settlement_link", "shown_due", "shown_released",
        "release_link",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "hold",
            "Hold",
            permission="payouts.hold_settlementleg",
            run=_hold,
            available=lambda obj: available(obj, "hold"),
            consequences=lambda obj: (
                f"{obj.amount} stays in Pay-In Holding and is not released to {obj.payee} until the hold is "
                "lifted. The other legs go on."
            ),
            danger=True,
        ),
        ObjectAction(
            "lift",
            "Lift the hold",
            permission="payouts.hold_settlementleg",
            run=_lift,
            available=lambda obj: available(obj, "lift"),
            consequences=lambda obj: (
                f"{obj.amount} is released to {obj.payee} on {obj.releasable_at:%-d %b %Y}, or at once "
                "if that is past."
            ),
        ),
    )

    @admin.display(description="Leg")
    def leg(self, obj: SettlementLeg) -> str:
        return f"{obj.kind} {shortened(str(obj.pk))}"

    @admin.display(description="Settlement")
    def settlement_link(self, obj: SettlementLeg) -> SafeString:
        return link(obj.settlement, obj.settlement.invoice_number)

    @admin.display(description="Release")
    def release_link(self, obj: SettlementLeg) -> SafeString:
        return link(obj.release)

    @admin.display(description="Seasons until")
    def shown_due(self, obj: SettlementLeg) -> SafeString:
        return instant(obj.releasable_at)

    @admin.display(description="Released")
    def shown_released(self, obj: SettlementLeg) -> SafeString:
        return instant(obj.released_at)


def _back(payout: Payout) -> str:
    return f"Nothing is sent. {payout.amount} is payable to {payout.payee} again."


@admin.register(Payout)
class PayoutAdmin(PayoutsAdmin):
    """Money on its way to bank accounts. One row is one attempt and is never sent again."""

    icon = "send_money"
    list_display = ("payout", "payee_link", "shown_state", "shown_amount", "attempt", "shown_requested")
    list_filter = ("status", AnswerFilter)
    list_select_related = ("payee",)
    search_fields = ("id__exact", "external_id__exact", "provider_id__exact")
    search_help_text = "Id, our reference, or the bank's id."
    fields = (
        "shown_state", "shown_amount", "payee_link", "shown_account", "attempt", "shown_requested",
        "shown_submitted", "shown_paid", "requested_by", "approval_reason", "approved_by", "failure_code",
        "failure_reason", "last_error", "external_id", "provider_id", "provider_status", "polls",
        "shown_next_poll",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "approve",
            "Approve",
            permission="payouts.approve_payout",
            run=_approve,
            available=lambda obj: available(obj, "approve"),
            consequences=lambda obj: (
                f"{obj.amount} is sent to {obj.payee}, {_account(obj)}, at once. It waits because it is "
                f"{obj.approval_reason}; it was requested by {obj.requested_by}."
            ),
        ),
        ObjectAction(
            "reject",
            "Reject",
            permission="payouts.approve_payout",
            run=_reject,
            available=lambda obj: available(obj, "reject"),
            consequences=_back,
            danger=True,
        ),
        ObjectAction(
            "cancel",
            "Cancel",
            permission="payouts.cancel_payout",
            run=_cancel,
            available=lambda obj: available(obj, "cancel"),
            consequences=_back,
            danger=True,
        ),
        ObjectAction(
            "poll",
            "Poll now",
            permission=POLL,
            run=_poll_payout,
            available=_may_poll,
            consequences=lambda obj: f"The bank is asked where {obj.external_id} stands.",
            reason_required=False,
        ),
        ObjectAction(
            "give-up",
            "Give up",
            permission="payouts.request_giving_up",
            run=_give_up,
            available=services.why_not_give_up,
            consequences=lambda obj: (
                f"Nothing happens until a second person approves it.\n\n{services.giving_up_means(obj)}"
            ),
            danger=True,
        ),
    )

    @admin.display(description="Payout")
    def payout(self, obj: Payout) -> str:
        return shortened(obj.external_id)

    @admin.display(description="Bank account")
    def shown_account(self, obj: Payout) -> SafeString:
        return link(obj.account, _account(obj))

    @admin.display(description="Requested")
    def shown_requested(self, obj: Payout) -> SafeString:
        return instant(obj.requested_at)

    @admin.display(description="Submitted")
    def shown_submitted(self, obj: Payout) -> SafeString:
        return instant(obj.submitted_at)

    @admin.display(description="Paid")
    def shown_paid(self, obj: Payout) -> SafeString:
        return instant(obj.paid_at)

    @admin.display(description="Next look at the bank")
    def shown_next_poll(self, obj: Payout) -> SafeString:
        return instant(obj.next_poll_at)


def _account(payout: Payout) -> str:
    details = payout.account.details
    return f"{details.get('bank_name') or 'account'} •••• {details.get('last4', '????')}"


@admin.register(PayeePolicy)
class PayeePolicyAdmin(PayoutsAdmin):
    """How each payee is paid, and which bank account is blocked because payouts to it came back."""

    icon = "event_repeat"
    list_display = ("organization_link", "mode", "cadence", "day", "shown_due", "blocked_reason")
    list_display_links = ("mode",)
    list_filter = ("mode",)
    list_select_related = ("organization",)
    search_fields = ("organization__slug__startswith", "organization__id__exact")
    search_help_text = "How the payee's slug begins, or its id."
    fields = (
        "organization_link", "mode", "cadence", "day", "minimum_minor", "shown_due", "blocked_reason",
        "payable",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "request",
            "Request a payout",
            permission="payouts.request_payout",
            run=_request,
            form=RequestForm,
            consequences=lambda obj: (
                f"Payable to {obj.organization}: {_payable(obj)}. A payout requested by hand waits for "
                "a second person."
            ),
        ),
        ObjectAction(
            "set",
            "Change policy",
            permission="payouts.operate_payeepolicy",
            run=_set_policy,
            form=PolicyForm,
            consequences=lambda obj: (
                f"How {obj.organization} is paid changes; until now: {obj.get_mode_display()}. "
                "Automatic pays at once what is payable."
            ),
        ),
        ObjectAction(
            "unblock",
            "Unblock the bank account",
            permission="payouts.operate_payeepolicy",
            run=_unblock,
            available=lambda obj: "" if obj.blocked_account_id else "No bank account is blocked.",
            consequences=lambda obj: (
                f"Payouts to {obj.organization} go to this account again: {_payable(obj)} is payable. It was "
                f"blocked for {obj.blocked_reason}."
            ),
            danger=True,
        ),
    )

    @admin.display(description="Payee")
    def organization_link(self, obj: PayeePolicy) -> SafeString:
        return link(obj.organization)

    @admin.display(description="Next run")
    def shown_due(self, obj: PayeePolicy) -> SafeString:
        return instant(obj.due_at)

    @admin.display(description="Payable now")
    def payable(self, obj: PayeePolicy) -> str:
        return _payable(obj)


def _payable(policy: PayeePolicy) -> str:
    return ", ".join(map(str, services.payables(policy.organization_id))) or "nothing"

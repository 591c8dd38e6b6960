"""Billing in the console: invoices beside the provider's, billing accounts, pay-ins, usage; the queues."""

import itertools
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Count, F, Min, Q, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import services
from billing.models import (
    OPEN_STATUSES,
    BillingAccount,
    Invoice,
    InvoiceStatus,
    PayIn,
    SubscriptionSync,
    UsageEvent,
)
from commerce import clock
from commerce.actor import Actor
from commerce.console import charts
from commerce.console.actions import ObjectAction
from commerce.console.as_of import asked_instants
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import facts, nothing, table
from commerce.console.format import admin_url, badge, instant, link, money
from commerce.console.panels import provider_messages
from commerce.console.registry import (
    Card,
    CardValue,
    Hit,
    Section,
    TimelineRow,
    register_card,
    register_panel,
    register_search,
    register_section,
    register_timeline,
)
from commerce.money import Money
from contracts.models import Contract
from ledger.admin import postings
from ledger.models import LedgerTransaction


def _posting(pk: UUID | None) -> LedgerTransaction | None:
    return LedgerTransaction.objects.filter(pk=pk).first() if pk else None


def _accept(*, obj: Invoice, actor: Actor, at: datetime, reason: str) -> str:
    invoice = services.accept_invoice(invoice=obj, actor=actor, at=at, reason=reason)
    return f"{invoice.number} over {invoice.total} goes its way."


def _collect(*, obj: Invoice, actor: Actor, at: datetime, reason: str) -> str:
    invoice = services.collect_invoice(invoice_id=obj.pk, actor=actor, at=at)
    if invoice.status == InvoiceStatus.PAID:
        return f"{invoice.number} is paid."
    return "The wallet still does not hold enough; nothing was moved."


@admin.register(Invoice)
class InvoiceAdmin(ConsoleAdmin):
    """What buyers owe, one invoice per contract and period: our rating, checked against OpenMeter's."""

    icon = "receipt_long"
    list_display = ("name", "buyer_link", "period", "state", "amount", "due", "rating")
    list_filter = ("status",)
    list_select_related = ("buyer", "contract")
    search_fields = ("number__exact", "provider_id__exact", "id__exact")
    search_help_text = "Number, OpenMeter's id, or our id."
    fields = (
        "name", "state", "contract_link", "buyer_link", "period", "issued", "due", "paid_on",
        "net", "tax", "amount", "paid", "collection",
        "provider_id", "provider_status", "provider_net", "rating", "told",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            name="accept",
            label="Accept our rating",
            permission="billing.verify_invoice",
            run=_accept,
            available=lambda i: (
                ""
                if i.status == InvoiceStatus.DRAFT and i.differences and not i.verified_at
                else "Only a draft that differs from the contract."
            ),
            consequences=lambda i: (
                f"The invoice is issued with our own lines. OpenMeter's net of "
                f"{Money(i.provider_net_minor, i.currency)} is set aside, and the difference with it."
            ),
        ),
        ObjectAction(
            name="collect",
            label="Collect now",
            permission="billing.collect_invoice",
            run=_collect,
            available=lambda i: "" if i.status in OPEN_STATUSES else "Only an unpaid invoice is collected.",
            consequences=lambda i: (
                f"{i.total} is taken from the wallet of {i.buyer.name} if it holds as much, "
                "and divided between tax, our fee, partner and sellers."
            ),
        ),
    )

    @admin.display(description="Invoice")
    def name(self, obj: Invoice) -> str:
        return str(obj)

    @admin.display(description="Contract")
    def contract_link(self, obj: Invoice) -> SafeString:
        return link(obj.contract)

    @admin.display(description="Buyer")
    def buyer_link(self, obj: Invoice) -> SafeString:
        return link(obj.buyer)

    @admin.display(description="Period")
    def period(self, obj: Invoice) -> str:
        return f"{obj.period_start:%-d %b %Y} – {obj.period_end:%-d %b %Y}"

    @admin.display(description="Status")
    def state(self, obj: Invoice) -> SafeString:
        return badge(obj.status)

    @admin.display(description="Net")
    def net(self, obj: Invoice) -> SafeString:
        return money(obj.net_minor, obj.currency)

    @admin.display(description="Tax")
    def tax(self, obj: Invoice) -> SafeString:
        return money(obj.tax_minor, obj.currency)

    @admin.display(description="Total")
    def amount(self, obj: Invoice) -> SafeString:
        return money(obj.total_minor, obj.currency)

    @admin.display(description="Paid")
    def paid(self, obj: Invoice) -> SafeString:
        return money(obj.paid_minor, obj.currency)

    @admin.display(description="Issued")
    def issued(self, obj: Invoice) -> SafeString:
        return instant(obj.issued_at)

    @admin.display(description="Due")
    def due(self, obj: Invoice) -> SafeString:
        return instant(obj.due_at)

    @admin.display(description="Paid on")
    def paid_on(self, obj: Invoice) -> SafeString:
        return instant(obj.paid_at)

    @admin.display(description="Collected by")
    def collection(self, obj: Invoice) -> SafeString:
        return link(_posting(obj.transaction_id))

    @admin.display(description="OpenMeter's net")
    def provider_net(self, obj: Invoice) -> SafeString:
        return money(obj.provider_net_minor, obj.currency)

    @admin.display(description="OpenMeter told that it is paid")
    def told(self, obj: Invoice) -> SafeString:
        return instant(obj.provider_paid_at)

    @admin.display(description="Rating")
    def rating(self, obj: Invoice) -> SafeString:
        if obj.verified_at:
            return badge("accepted" if obj.differences else "verified", "warn" if obj.differences else "good")
        return badge("differs", "bad") if obj.differences else badge("waiting")


def invoice_lines(invoice: Invoice, request: HttpRequest) -> SafeString:
    lines = invoice.lines.select_related("seller").order_by("line_id", "start")
    return table(
        ("Product", "Seller", "From", "To", ">Quantity", ">Rate", ">Net", ">Tax"),
        [
            (
                line.product,
                link(line.seller),
                instant(line.start),
                instant(line.end),
                f"{line.quantity.normalize():,f}",
                f"{line.rate:,.{max(2, -int(line.rate.normalize().as_tuple().exponent))}f}",
                money(line.net_minor, invoice.currency),
                money(line.tax_minor, invoice.currency),
            )
            for line in lines
        ],
        empty="The lines are written when the invoice is verified.",
        total=(
            *("Net and tax", "", "", "", "", ""),
            money(invoice.net_minor, invoice.currency),
            money(invoice.tax_minor, invoice.currency),
        ),
    )


def invoice_differences(invoice: Invoice, request: HttpRequest) -> SafeString:
    return table(
        ("Line", ">The contract says", ">OpenMeter says", ">Explained by delay", "Expected"),
        [
            (
                row["line_id"] or "not a line of the contract",
                money(row["ours_minor"], invoice.currency),
                money(row["theirs_minor"], invoice.currency),
                money(row["allowed_minor"], invoice.currency),
                "; ".join(row.get("expected", [])) or "no",
            )
            for row in invoice.differences
        ],
        empty="OpenMeter's invoice and our rating of the contract agree.",
    )


register_panel("billing.invoice", title="Lines", render=invoice_lines, order=1)
register_panel("billing.invoice", title="Differences", render=invoice_differences, order=2)
register_panel(
    "billing.invoice",
    title="Ledger",
    render=lambda invoice, request: postings([f"invoice:{invoice.pk}"]),
    order=40,
    permission="ledger.view_ledgertransaction",
)
register_panel(
    "billing.invoice",
    title="Messages from OpenMeter",
    render=lambda invoice, request: provider_messages(invoice.provider, invoice.provider_id),
    order=50,
    permission="providers.view_providerevent",
)


@admin.register(BillingAccount)
class BillingAccountAdmin(ConsoleAdmin):
    """The billing side of each contract: whether its buyer pays, and what is set aside for it."""

    icon = "account_balance_wallet"
    list_display = ("contract_link", "buyer_link", "status", "since", "set_aside", "missing", "next_look")
    list_filter = ("billing_status",)
    list_select_related = ("contract", "buyer")
    list_display_links = ("status",)
    search_fields = ("contract__number__exact", "id__exact")
    search_help_text = "The contract's number, or our id."
    fields = (
        "status", "contract_link", "buyer_link", "since", "next_look", "downpayment", "committed", "missing",
    )  # fmt: skip

    @admin.display(description="Contract")
    def contract_link(self, obj: BillingAccount) -> SafeString:
        return link(obj.contract)

    @admin.display(description="Buyer")
    def buyer_link(self, obj: BillingAccount) -> SafeString:
        return link(obj.buyer)

    @admin.display(description="Billing status")
    def status(self, obj: BillingAccount) -> SafeString:
        return badge(obj.billing_status)

    @admin.display(description="Since")
    def since(self, obj: BillingAccount) -> SafeString:
        return instant(obj.status_since)

    @admin.display(description="Looked at again")
    def next_look(self, obj: BillingAccount) -> SafeString:
        return instant(obj.next_check_at)

    @admin.display(description="Downpayment")
    def downpayment(self, obj: BillingAccount) -> SafeString:
        return money(obj.downpayment_minor, obj.currency)

    @admin.display(description="Committed")
    def committed(self, obj: BillingAccount) -> SafeString:
        return money(obj.committed_minor, obj.currency)

    @admin.display(description="Set aside")
    def set_aside(self, obj: BillingAccount) -> SafeString:
        return money(obj.downpayment_minor + obj.committed_minor, obj.currency)

    @admin.display(description="Still missing")
    def missing(self, obj: BillingAccount) -> SafeString:
        return money(obj.downpayment_wanted_minor + obj.committed_wanted_minor, obj.currency)


@admin.register(PayIn)
class PayInAdmin(ConsoleAdmin):
    """Money that came in by bank transfer; it is in the wallet once, whatever was sent about it."""

    icon = "south_west"
    list_display = ("received", "buyer_link", "rail", "amount", "state", "provider_id")
    list_filter = ("status",)
    list_select_related = ("buyer",)
    search_fields = ("provider_id__exact", "id__exact")
    search_help_text = "The bank's id, or ours."
    fields = ("state", "amount", "buyer_link", "rail", "received", "posting", "provider", "provider_id")

    @admin.display(description="Credited by")
    def posting(self, obj: PayIn) -> SafeString:
        return link(_posting(obj.transaction_id))

    @admin.display(description="Completed")
    def received(self, obj: PayIn) -> SafeString:
        return instant(obj.completed_at)

    @admin.display(description="Buyer")
    def buyer_link(self, obj: PayIn) -> SafeString:
        return link(obj.buyer) if obj.buyer else badge("unidentified", "warn")

    @admin.display(description="Amount")
    def amount(self, obj: PayIn) -> SafeString:
        return money(obj.amount_minor, obj.currency)

    @admin.display(description="Status")
    def state(self, obj: PayIn) -> SafeString:
        return badge(obj.status)


@admin.register(UsageEvent)
class UsageEventAdmin(ConsoleAdmin):
    """What was metered, each event once, as it was forwarded to OpenMeter."""

    icon = "speed"
    list_display = ("time_shown", "contract_link", "meter", "amount", "source", "event_id")
    list_select_related = ("contract",)
    search_fields = ("event_id__exact",)
    search_help_text = "The event's id."
    fields = ("contract_link", "line_id", "meter", "time_shown", "amount", "source", "event_id")

    @admin.display(description="Time")
    def time_shown(self, obj: UsageEvent) -> SafeString:
        return instant(obj.time)

    @admin.display(description="Contract")
    def contract_link(self, obj: UsageEvent) -> SafeString:
        return link(obj.contract)

    @admin.display(description="Quantity")
    def amount(self, obj: UsageEvent) -> str:
        return f"{obj.quantity.normalize():f}"


register_panel(
    "billing.payin",
    title="Ledger",
    render=lambda pay_in, request: postings([f"pay_in:{pay_in.pk}"]),
    order=40,
    permission="ledger.view_ledgertransaction",
)
register_panel(
    "billing.payin",
    title="Messages from the bank",
    render=lambda pay_in, request: provider_messages(pay_in.provider, pay_in.provider_id),
    order=50,
    permission="providers.view_providerevent",
)


def contract_billing(contract: Contract, request: HttpRequest) -> SafeString:
    """The owner's of the instant that the page shows; the others have their own pages."""
    asked = asked_instants(request)
    at, known_at = asked.get("valid_at", clock.now()), asked.get("known_at")
    account = services.account_at(contract.pk, at, known_at)
    if account is None:
        return nothing("Billing begins when the contract is signed.")
    sync = SubscriptionSync.objects.filter(
        contract=contract, buyer=account.buyer_id, turn=account.turn
    ).first()
    followed: SafeString | str = "not yet created"
    if sync and sync.subscription_id:
        versions = f"at version {sync.applied_version} of {contract.version}"
        followed = format_html(
            '<a href="{}">{}</a> <span class="c-mono">{}</span>',
            admin_url(sync),
            versions,
            sync.subscription_id,
        )
    said = facts(
        {
            "Billed to": link(account.buyer),
            "Billing status": format_html(
                '<a href="{}">{}</a>', admin_url(account), badge(account.billing_status)
            ),
            "Since": instant(account.status_since),
            "Downpayment": money(account.downpayment_minor, account.currency),
            "Committed": money(account.committed_minor, account.currency),
            "Still missing": money(
                account.downpayment_wanted_minor + account.committed_wanted_minor, account.currency
            ),
            "Subscription at OpenMeter": followed,
        }
    )
    about = format_html('<p class="c-help">{}</p>', "Whose account it was then; what is on it is of now.")
    return format_html("{}{}", said, about) if asked else said


def contract_invoices(contract: Contract, request: HttpRequest) -> SafeString:
    invoices = Invoice.objects.filter(contract=contract).order_by("-id")[:24]
    return table(
        ("Invoice", "Period", "Status", "Due", "Paid", ">Total"),
        [
            (
                link(invoice),
                f"{invoice.period_start:%-d %b %Y} – {invoice.period_end:%-d %b %Y}",
                badge(invoice.status),
                instant(invoice.due_at),
                instant(invoice.paid_at),
                money(invoice.total_minor, invoice.currency),
            )
            for invoice in invoices
        ],
        empty="The first invoice comes an hour after the end of the first period.",
    )


def contract_postings(contract: Contract, request: HttpRequest) -> SafeString:
    """What the contract and its invoices set aside, gave back and collected."""
    invoices = Invoice.objects.filter(contract=contract).order_by("-id").values_list("pk", flat=True)[:24]
    accounts = BillingAccount.objects.filter(contract=contract).values_list("pk", flat=True)
    return postings(
        [
            *(f"contract:{contract.pk}:v{version}" for version in range(1, contract.version + 1)),
            *(f"invoice:{pk}" for pk in invoices),
            *(f"billing_account:{pk}:{step}" for pk in accounts for step in ("settled", "reopened")),
        ]
    )


register_panel("contracts.contract", title="Billing", render=contract_billing, order=20, tab="Invoices")
register_panel("contracts.contract", title="Invoices", render=contract_invoices, order=21)
register_panel(
    "contracts.contract",
    title="Ledger",
    render=contract_postings,
    order=35,
    permission="ledger.view_ledgertransaction",
)


def contract_timeline(contract: Contract) -> Iterable[TimelineRow]:
    for invoice in Invoice.objects.filter(contract=contract).order_by("-id")[:24]:
        if invoice.paid_at:
            yield TimelineRow(
                invoice.paid_at, "invoice", f"{invoice} paid", str(invoice.total), url=admin_url(invoice)
            )
        if invoice.issued_at:
            yield TimelineRow(
                invoice.issued_at,
                "invoice",
                f"{invoice} issued",
                f"{invoice.total}, due {invoice.due_at:%-d %b %Y}",
                url=admin_url(invoice),
            )
    for change in contract.subscription_changes.order_by("-version")[:50]:
        yield TimelineRow(
            change.applied_at, "provider", "OpenMeter followed", f"version {change.version}: {change.summary}"
        )


register_timeline("contracts.contract", contract_timeline)


def _changelist(model: str, query: str = "") -> str:
    return reverse(f"admin:billing_{model}_changelist") + query


def _differing(request: HttpRequest) -> CardValue:
    found = (
        Invoice.objects.filter(status=InvoiceStatus.DRAFT, verified_at__isnull=True)
        .exclude(differences=[])
        .values("currency")
        .annotate(count=Count("id"), oldest=Min("period_end"), value=Sum("provider_net_minor"))
    )
    return _card(found)


def _unpaid(request: HttpRequest) -> CardValue:
    found = (
        Invoice.objects.filter(status=InvoiceStatus.OVERDUE)
        .values("currency")
        .annotate(count=Count("id"), oldest=Min("due_at"), value=Sum(F("total_minor") - F("paid_minor")))
    )
    return _card(found)


def _card(found: Iterable[Any]) -> CardValue:
    rows = list(found)
    return CardValue(
        count=sum(row["count"] for row in rows),
        oldest=min((row["oldest"] for row in rows), default=None),
        value={row["currency"]: row["value"] for row in rows},
    )


register_card(
    Card(
        key="invoice_differences",
        title="Invoices that differ",
        url=lambda: _changelist("invoice", "?status__exact=draft"),
        load=_differing,
        empty="Every invoice agrees with its contract.",
        permission="billing.view_invoice",
        order=30,
    )
)
register_card(
    Card(
        key="overdue",
        title="Overdue invoices",
        url=lambda: _changelist("invoice", "?status__exact=overdue"),
        load=_unpaid,
        empty="Nobody is late.",
        permission="billing.view_invoice",
        order=31,
    )
)


def ageing(request: HttpRequest) -> SafeString:
    """Unpaid invoices by days past due, per currency."""
    at = clock.now()
    bounds: list[datetime | None] = [None, *(at - timedelta(days=days) for days in (0, 30, 60, 90)), None]
    sums = {}
    for index, (newest, oldest) in enumerate(itertools.pairwise(bounds)):
        within = (Q(due_at__lte=newest) if newest else Q()) & (Q(due_at__gt=oldest) if oldest else Q())
        sums[f"age_{index}"] = Sum(F("total_minor") - F("paid_minor"), filter=within, default=0)
    rows: Iterable[Any] = Invoice.objects.filter(status__in=OPEN_STATUSES).values("currency").annotate(**sums)
    return charts.ageing(
        {row["currency"]: [row[name] for name in sums] for row in rows}, empty="Nothing is unpaid."
    )


register_section(
    Section(
        key="ageing",
        title="Unpaid invoices by age",
        render=ageing,
        permission="billing.view_invoice",
        order=20,
    )
)


def search(term: str) -> Iterable[Hit]:
    for invoice in Invoice.objects.filter(Q(number=term) | Q(provider_id=term))[:20]:
        yield Hit(str(invoice), admin_url(invoice), "invoice")
    for pay_in in PayIn.objects.filter(provider_id=term)[:20]:
        yield Hit(str(pay_in), admin_url(pay_in), "pay-in")


register_search(search, "billing.view_invoice")

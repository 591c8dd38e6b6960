"""Billing in the console: invoices beside the provider's, billing accounts, pay-ins, usage; the queues."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Count, F, Min, Q, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
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
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.format import admin_url, badge, instant, link, money
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


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]], empty: str) -> SafeString:
    body = format_html_join(
        "", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", ((cell,) for cell in row)),) for row in rows)
    )
    if not body:
        return format_html('<p class="c-empty">{}</p>', empty)
    head = format_html_join("", "<th>{}</th>", ((name,) for name in heads))
    return format_html(
        '<table class="c-table"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>', head, body
    )


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
    """What buyers owe."""

    list_display = ("name", "buyer_link", "period", "state", "amount", "due", "rating")
    list_filter = ("status",)
    list_select_related = ("buyer", "contract")
    search_fields = ("number__exact", "provider_id__exact", "id__exact")
    fieldsets = (
        (None, {"fields": ("name", "contract_link", "buyer_link", "state", "period")}),
        ("Amounts", {"fields": ("net", "tax", "amount", "paid")}),
        ("Dates", {"fields": ("issued", "due", "paid_on")}),
        ("At OpenMeter", {"fields": ("provider_id", "provider_status", "provider_net", "rating", "told")}),
    )
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

    @admin.display(description="OpenMeter's net")
    def provider_net(self, obj: Invoice) -> SafeString:
        return money(obj.provider_net_minor, obj.currency)

    @admin.display(description="Told that it is paid")
    def told(self, obj: Invoice) -> SafeString:
        return instant(obj.provider_paid_at)

    @admin.display(description="Rating")
    def rating(self, obj: Invoice) -> SafeString:
        if obj.verified_at:
            return badge("accepted" if obj.differences else "verified", "warn" if obj.differences else "good")
        return badge("differs", "bad") if obj.differences else badge("waiting")


def invoice_lines(invoice: Invoice, request: HttpRequest) -> SafeString:
    lines = invoice.lines.select_related("seller").order_by("line_id", "start")
    return _table(
        ("Product", "Seller", "From", "To", "Quantity", "Rate", "Net", "Tax"),
        (
            (
                line.product,
                link(line.seller),
                instant(line.start),
                instant(line.end),
                f"{line.quantity.normalize():f}",
                f"{line.rate.normalize():f}",
                money(line.net_minor, invoice.currency),
                money(line.tax_minor, invoice.currency),
            )
            for line in lines
        ),
        "The lines are written when the invoice is verified.",
    )


def invoice_differences(invoice: Invoice, request: HttpRequest) -> SafeString:
    return _table(
        ("Line", "The contract says", "OpenMeter says", "Explained by delay"),
        (
            (
                row["line_id"] or "not a line of the contract",
                money(row["ours_minor"], invoice.currency),
                money(row["theirs_minor"], invoice.currency),
                money(row["allowed_minor"], invoice.currency),
            )
            for row in invoice.differences
        ),
        "OpenMeter's invoice and our rating of the contract agree.",
    )


register_panel("billing.invoice", title="Lines", render=invoice_lines, order=1)
register_panel("billing.invoice", title="Differences", render=invoice_differences, order=2)


@admin.register(BillingAccount)
class BillingAccountAdmin(ConsoleAdmin):
    """The billing side of each contract."""

    list_display = ("contract_link", "buyer_link", "status", "since", "set_aside", "missing", "next_look")
    list_filter = ("billing_status",)
    list_select_related = ("contract", "buyer")
    search_fields = ("contract__number__exact", "id__exact")
    fieldsets = (
        (None, {"fields": ("contract_link", "buyer_link", "status", "since", "next_look")}),
        ("Set aside in the wallet", {"fields": ("downpayment", "committed", "missing")}),
    )

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
    """Money that came in."""

    list_display = ("received", "buyer_link", "rail", "amount", "state", "provider_id")
    list_filter = ("status",)
    list_select_related = ("buyer",)
    search_fields = ("provider_id__exact", "id__exact")
    fields = (
        "buyer_link",
        "rail",
        "amount",
        "state",
        "received",
        "provider",
        "provider_id",
        "transaction_id",
    )

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
    """What was metered."""

    list_display = ("time_shown", "contract_link", "meter", "amount", "source", "event_id")
    list_select_related = ("contract",)
    search_fields = ("event_id__exact",)
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


def contract_billing(contract: Contract, request: HttpRequest) -> SafeString:
    account = BillingAccount.objects.filter(contract=contract).first()
    if account is None:
        return format_html('<p class="c-empty">{}</p>', "Billing begins when the contract is signed.")
    sync = SubscriptionSync.objects.filter(contract=contract).first()
    followed = "not yet created"
    if sync:
        name = sync.subscription_id or followed
        followed = f"{name}, at version {sync.applied_version} of {contract.version}"
    return _table(
        ("Billing status", "Since", "Downpayment", "Committed", "Still missing", "Subscription at OpenMeter"),
        [
            (
                format_html('<a href="{}">{}</a>', admin_url(account), badge(account.billing_status)),
                instant(account.status_since),
                money(account.downpayment_minor, account.currency),
                money(account.committed_minor, account.currency),
                money(account.downpayment_wanted_minor + account.committed_wanted_minor, account.currency),
                followed,
            )
        ],
        "",
    )


def contract_invoices(contract: Contract, request: HttpRequest) -> SafeString:
    invoices = Invoice.objects.filter(contract=contract).order_by("-id")[:24]
    return _table(
        ("Invoice", "Period", "Status", "Total", "Due", "Paid"),
        (
            (
                link(invoice),
                f"{invoice.period_start:%-d %b %Y} – {invoice.period_end:%-d %b %Y}",
                badge(invoice.status),
                money(invoice.total_minor, invoice.currency),
                instant(invoice.due_at),
                instant(invoice.paid_at),
            )
            for invoice in invoices
        ),
        "The first invoice comes an hour after the end of the first period.",
    )


register_panel("contracts.contract", title="Billing", render=contract_billing, order=20)
register_panel("contracts.contract", title="Invoices", render=contract_invoices, order=21)


def contract_timeline(contract: Contract) -> Iterable[TimelineRow]:
    for invoice in Invoice.objects.filter(contract=contract).order_by("-id")[:24]:
        if invoice.issued_at:
            yield TimelineRow(
                invoice.issued_at,
                "invoice",
                f"{invoice} issued",
                f"{invoice.total}, due {invoice.due_at:%-d %b %Y}",
                url=admin_url(invoice),
            )
        if invoice.paid_at:
            yield TimelineRow(
                invoice.paid_at, "invoice", f"{invoice} paid", str(invoice.total), url=admin_url(invoice)
            )
    for change in contract.subscription_changes.order_by("-id")[:50]:
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
    bounds = (("not due", None, 0), ("0–30", 0, 30), ("31–60", 30, 60), ("61–90", 60, 90), ("90+", 90, None))
    sums = {}
    for label, after, until in bounds:
        within = Q()
        if after is not None:
            within &= Q(due_at__lte=at - timedelta(days=after))
        if until is not None:
            within &= Q(due_at__gt=at - timedelta(days=until))
        sums[label] = Sum(F("total_minor") - F("paid_minor"), filter=within, default=0)
    rows: Iterable[Any] = (
        Invoice.objects.filter(status__in=OPEN_STATUSES)
        .values("currency")
        .annotate(**{f"bucket_{i}": total for i, total in enumerate(sums.values())})
        .order_by("currency")
    )
    return _table(
        ("Days past due", *sums),
        (
            (row["currency"], *(money(row[f"bucket_{i}"], row["currency"]) for i in range(len(sums))))
            for row in rows
        ),
        "Nothing is unpaid.",
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

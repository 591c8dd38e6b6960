"""One operation on many contracts in the console: choose, see every row, confirm, watch it run."""

from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from commerce import clock
from commerce.actor import Actor
from commerce.api.problems import translate
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import NOTHING, admin_url, badge, instant, link, money
from commerce.console.panels import approvals_of
from commerce.console.registry import register_panel
from commerce.errors import CommerceError
from commerce.logs import request_id
from commerce.money import CURRENCIES
from commerce.parties.models import Organization
from contracts.admin.choices import Offered
from contracts.admin.payload_form import InstantField, OrganizationField, payload_form
from contracts.admin.words import names_of, payload_in_words
from contracts.models import BulkPlan, BulkPlanRow, Contract
from contracts.rules.fold import NOTHING as NO_STATE
from contracts.rules.operations import REGISTRY, named
from contracts.services import bulk

REFRESH_SECONDS = 2
ROWS_SHOWN = 50
_OF_ONE_CONTRACT = frozenset({"line_id", "scope"})


class Selection(forms.Form):
    """Which contracts: by number, or all that fit."""

    numbers = forms.CharField(
        required=False,
        label="Contract numbers",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="One a line or separated by commas; or leave it empty and choose below.",
    )
    status = forms.ChoiceField(
        required=False, choices=[("", "any"), *Contract.Status.choices], widget=UnfoldAdminSelectWidget
    )
    buyer = OrganizationField(
        required=False, max_length=64, widget=UnfoldAdminTextInputWidget, help_text="The buyer's short name."
    )
    seller = OrganizationField(
        required=False, max_length=64, widget=UnfoldAdminTextInputWidget, help_text="The seller's short name."
    )
    currency = forms.ChoiceField(
        required=False,
        choices=[("", "any"), *((code, code) for code in sorted(CURRENCIES))],
        widget=UnfoldAdminSelectWidget,
    )
    product = forms.CharField(
        required=False, max_length=60, label="Lines of product", widget=UnfoldAdminTextInputWidget,
        help_text="Its code; for what changes lines. All live lines when empty.",
    )  # fmt: skip
    effective_at = InstantField(
        required=False, label="Takes effect", help_text="UTC; when it runs if left empty.",
        widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local", "step": "1"}),
    )  # fmt: skip
    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}), help_text="Kept with every edit."
    )


def _confirm(*, obj: BulkPlan, **context: Any) -> str:
    plan = bulk.confirm_bulk(plan=obj, **context)
    if plan.status == BulkPlan.Status.WAITING:
        return "A second person has to agree; the request waits among the approvals."
    return "It runs; this page shows how far it is."


def _consequences(plan: BulkPlan) -> SafeString:
    found = bulk.progress(plan)
    sums = [
        format_html("{} → {}", money(one["before"], currency), money(one["after"], currency))
        for currency, one in plan.totals.items()
    ]
    why = bulk.two_people(plan, found["ready"], clock.now())
    return format_html(
        "{} contracts are changed, {} are left out. A full period of them, usage apart: {}.\n\n{}",
        f"{found['ready']:,}",
        f"{found['excluded']:,}",
        format_html("{}", SafeString(", ".join(sums)) if sums else "nothing"),
        f"{why} Confirming asks a second person."
        if why
        else "Every row is recorded as an edit of its contract.",
    )


def _confirmable(plan: BulkPlan) -> str:
    if plan.status != BulkPlan.Status.READY and not bulk.refused(plan, clock.now()):
        return f"Not possible while {plan.get_status_display()}."
    return "" if bulk.progress(plan)["ready"] else "No contract is ready for it."


def _cancellable(plan: BulkPlan) -> str:
    over = plan.status in (BulkPlan.Status.COMPLETED, BulkPlan.Status.CANCELLED)
    return f"It is {plan.get_status_display()}." if over else ""


@admin.register(BulkPlan)
class BulkPlanAdmin(ConsoleAdmin):
    """One operation on many contracts: what it would do to each, who agreed, and what became of each."""

    icon = "checklist"
    list_display = ("what", "state", "contracts", "by", "requested", "finished")
    list_filter = ("status",)
    list_select_related = ("requested_by",)
    search_fields = ("id__exact",)
    search_help_text = "The plan's id."
    fields = (
        "what", "state", "contracts", "by", "requested", "takes_effect", "confirmed", "recorded_as",
        "finished", "reason", "shown_selection", "shown_payload",
    )  # fmt: skip
    list_before_template = "contracts/list_about.html"
    object_actions = (
        ObjectAction(
            "confirm", "Confirm", permission=bulk.REQUEST, run=_confirm, available=_confirmable,
            consequences=_consequences,
        ),
        ObjectAction(
            "cancel", "Stop", permission=bulk.CANCEL, danger=True, available=_cancellable,
            run=lambda *, obj, **context: bulk.cancel_bulk(plan=obj, **context) and None,
            consequences=lambda plan: "No further contract is changed. What was recorded until then stays.",
        ),
    )  # fmt: skip

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.new_view)
        return [path("new/", view, name="contracts_bulkplan_new"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        links = [("Change many contracts", reverse("admin:contracts_bulkplan_new"))]
        shown = links if request.user.has_perm(bulk.REQUEST) else []
        return super().changelist_view(request, {"list_links": shown, **(extra_context or {})})

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().change_view(request, object_id, *args, **kwargs)
        found = (getattr(response, "context_data", None) or {}).get("original")
        if isinstance(found, BulkPlan) and found.is_under_way:
            response["Refresh"] = str(REFRESH_SECONDS)
        return response

    def new_view(self, request: HttpRequest) -> HttpResponse:
        """GET: which operation, then its form and the contracts. POST: store the plan; workers preview it."""
        if not request.user.has_perm(bulk.REQUEST):
            raise PermissionDenied
        operation = request.GET.get("operation", "")
        known = [name for name in bulk.OPERATIONS if name in REGISTRY]
        if operation and operation not in known:
            raise Http404
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": "Change many contracts",
            "opts": self.opts,
            "back": reverse("admin:contracts_bulkplan_changelist"),
        }
        if not operation:
            kept = {name: value for name, value in request.GET.items() if name != "operation"}
            context["operations"] = [
                (REGISTRY[name].label, f"?{urlencode({'operation': name, **kept})}")
                for name in known
                if request.user.has_perm(REGISTRY[name].permission)
            ]
            return TemplateResponse(request, "contracts/bulk_new.html", context)
        if not request.user.has_perm(named(operation).permission):
            raise PermissionDenied
        form = payload_form(
            named(operation).payload, Offered(operation, None, NO_STATE), base=Selection,
            data=request.POST if request.method == "POST" else None, without=_OF_ONE_CONTRACT,
        )  # fmt: skip
        status = 200
        if request.method == "POST":
            status = 422
            if form.is_valid():
                try:
                    plan = self._planned(request, operation, form)
                except (CommerceError, OperationalError) as caught:
                    error = translate(caught)
                    form.blame(error.errors, error.detail)
                    status = error.status
                else:
                    return HttpResponseRedirect(admin_url(plan))
        else:
            form.initial.update(_asked_for(request))
        context |= {"form": form, "subtitle": named(operation).label}
        return TemplateResponse(request, "contracts/bulk_new.html", context, status=status)

    def _planned(self, request: HttpRequest, operation: str, form: Any) -> BulkPlan:
        given = form.cleaned_data
        at = given["effective_at"]
        numbers = given["numbers"].replace(",", " ").split()
        chosen = bulk.Chosen(
            numbers=tuple(dict.fromkeys(number.upper() for number in numbers)),
            status=given["status"],
            buyer_id=given["buyer"],
            seller_id=given["seller"],
            currency=given["currency"],
        )
        return bulk.plan_bulk(
            operation=operation,
            payload=form.payload(),
            chosen=chosen,
            product=given["product"],
            effective_at=datetime.fromisoformat(at) if at else None,
            reason=given["reason"],
            actor=Actor.for_user(request.user, request_id.get()),
            at=clock.now(),
        )

    @admin.display(description="Plan")
    def what(self, obj: BulkPlan) -> str:
        return named(obj.operation).label

    @admin.display(description="State")
    def state(self, obj: BulkPlan) -> SafeString:
        return badge(obj.status, "busy" if obj.is_under_way else "")

    @admin.display(description="Contracts")
    def contracts(self, obj: BulkPlan) -> str:
        return f"{obj.size:,}"

    @admin.display(description="By")
    def by(self, obj: BulkPlan) -> str:
        return obj.requested_by.get_username()

    @admin.display(description="Requested")
    def requested(self, obj: BulkPlan) -> SafeString:
        return instant(obj.requested_at)

    @admin.display(description="Takes effect")
    def takes_effect(self, obj: BulkPlan) -> SafeString | str:
        return instant(obj.effective_at) if obj.effective_at else "when it runs"

    @admin.display(description="Confirmed")
    def confirmed(self, obj: BulkPlan) -> SafeString:
        return instant(obj.confirmed_at)

    @admin.display(description="Recorded as")
    def recorded_as(self, obj: BulkPlan) -> str:
        return obj.acts_as.get_username() if obj.acts_as else "—"

    @admin.display(description="Finished")
    def finished(self, obj: BulkPlan) -> SafeString:
        return instant(obj.finished_at)

    @admin.display(description="Chosen")
    def shown_selection(self, obj: BulkPlan) -> SafeString:
        said = dict(obj.selection)
        parties = {key: said.pop(key) for key in ("buyer_id", "seller_id") if key in said}
        names = dict(Organization.objects.filter(pk__in=parties.values()).values_list("pk", "name"))
        words = [
            ", ".join(value) if isinstance(value, list) else f"{key} {value}" for key, value in said.items()
        ]
        words += [f"{key.removesuffix('_id')} {names.get(value, value)}" for key, value in parties.items()]
        return format_html('<span class="c-wide">{}</span>', "; ".join(words).replace("_", " "))

    @admin.display(description="What")
    def shown_payload(self, obj: BulkPlan) -> SafeString:
        said = payload_in_words(obj.payload, names_of(), "")
        lines = f"lines of {obj.product}" if obj.product else ""
        return format_html('<span class="c-wide">{} {}</span>', said, lines) if said or lines else NOTHING


def _asked_for(request: HttpRequest) -> dict[str, str]:
    """The changelist's own filters as the form's."""
    found = {name.removesuffix("__exact"): value for name, value in request.GET.items()}
    return {name: str(found[name]) for name in ("status", "numbers", "currency") if name in found}


def _progress_panel(plan: BulkPlan, request: HttpRequest) -> SafeString:
    found = bulk.progress(plan)
    left = found["waiting"] if plan.status == BulkPlan.Status.PREVIEWING else found["ready"]
    bar: SafeString | str = ""
    if plan.is_under_way:
        word = "previewed" if plan.status == BulkPlan.Status.PREVIEWING else "worked through"
        bar = format_html(
            '<progress class="c-progress" value="{}" max="{}"></progress>'
            "<p>{} of {} {}. This page refreshes itself.</p>",
            plan.size - left, plan.size, f"{plan.size - left:,}", f"{plan.size:,}", word,
        )  # fmt: skip
    tones = {"ready": "busy", "done": "good", "failed": "bad", "excluded": "warn", "waiting": "plain"}
    rows = [
        (
            format_html(
                '<a class="c-link" href="?outcome={}#contracts">{}</a>',
                outcome,
                badge(outcome, tones[outcome]),
            ),
            f"{count:,}",
        )
        for outcome, count in found.items()
        if count
    ]
    return format_html("{}{}", bar, table(["Outcome", ">Contracts"], rows))


def _totals_panel(plan: BulkPlan, request: HttpRequest) -> SafeString:
    rows = [
        (
            currency,
            f"{one['contracts']:,}",
            money(one["before"], currency),
            money(one["after"], currency),
            money(one["after"] - one["before"], currency),
        )
        for currency, one in sorted(plan.totals.items())
    ]
    headers = ["Currency", ">Contracts", ">A full period now", ">Afterwards", ">Difference"]
    return table(headers, rows) if rows else SafeString()


def _rows_panel(plan: BulkPlan, request: HttpRequest) -> SafeString:
    """The rows by id, of one outcome when asked; the next page begins after the last row."""
    outcome, after = request.GET.get("outcome", ""), request.GET.get("after", "")
    found = plan.rows.select_related("contract").order_by("id")
    if outcome in BulkPlanRow.Outcome.values:
        found = found.filter(outcome=outcome)
    with suppress(ValueError):
        found = found.filter(pk__gt=UUID(after))
    shown = list(found[:ROWS_SHOWN])
    rows = [
        (
            link(row.contract),
            badge(
                row.outcome, {"done": "good", "failed": "bad", "excluded": "warn"}.get(row.outcome, "plain")
            ),
            money(row.before_minor, row.currency),
            money(row.after_minor, row.currency),
            row.detail or row.needs_approval or (f"edit #{row.seq}" if row.seq else NOTHING),
        )
        for row in shown
    ]
    more: SafeString | str = ""
    if len(shown) == ROWS_SHOWN:
        query = urlencode({"outcome": outcome, "after": str(shown[-1].pk)})
        more = format_html(
            '<p class="c-buttons"><a class="c-button" href="?{}#contracts">Next</a></p>', query
        )
    headers = ["Contract", "Outcome", ">A full period now", ">Afterwards", "Remarks"]
    return format_html("{}{}", table(headers, rows, empty="No contract has this outcome."), more)


register_panel("contracts.bulkplan", title="Progress", render=_progress_panel, order=1)
register_panel("contracts.bulkplan", title="Totals", render=_totals_panel, order=2)
register_panel("contracts.bulkplan", title="Contracts", render=_rows_panel, order=3)
register_panel(
    "contracts.bulkplan",
    title="Approval",
    render=lambda plan, request: approvals_of("contracts.bulkplan", plan.pk),
    order=4,
)

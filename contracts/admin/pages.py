"""The pages of contracts and of their edits."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce.actor import Actor
from commerce.console.as_of import as_of_banner, as_of_form, asked_instants
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import facts
from commerce.console.format import NOTHING, admin_url, badge, instant, link, shown_json
from commerce.console.models import Approval
from commerce.parties.models import Organization
from contracts.admin import batching, documents, operating
from contracts.admin.instants import edits_of, view_of
from contracts.admin.operating import actions, do_url
from contracts.admin.titles import title_of
from contracts.admin.words import changed, names_of, shown_changes
from contracts.models import Contract, ContractEdit
from contracts.rules import fold
from contracts.services import drafts


@admin.register(Contract)
class ContractAdmin(ConsoleAdmin):
    """One buyer, one currency, under terms. Every change is an operation in its log."""

    icon = "contract"
    list_display = ("number", "state_badge", "buyer_link", "currency", "starts", "ends", "version")
    list_filter = ("status",)
    list_select_related = ("buyer",)
    search_fields = ("number__startswith", "id__exact")
    search_help_text = "How the number begins, or the id."
    change_form_outer_before_template = "contracts/header.html"
    list_before_template = "contracts/list_about.html"
    tabbed = True

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("new/", view(self.new_view), name="contracts_contract_new"),
            path("<uuid:object_id>/batch/", view(self.batch_view), name="contracts_contract_batch"),
            path("<uuid:object_id>/document/", view(self.document_view), name="contracts_contract_document"),
            path("<uuid:object_id>/document.pdf", view(self.pdf_view), name="contracts_contract_pdf"),
            *super().get_urls(),
        ]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """The header strip says all that the skin's own form would."""
        return []

    def buttons(self, request: HttpRequest, obj: Any) -> list[dict[str, Any]]:
        """Every operation that this person may ever record; none at another instant."""
        if asked_instants(request):
            return []
        return [
            {"action": action, "why_not": action.available(obj), "url": do_url(obj, action.name)}
            for action in actions()
            if request.user.has_perm(action.permission)
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        links = []
        if request.user.has_perm("contracts.edit_contract"):
            bulk = reverse("admin:contracts_bulkplan_new")
            query = f"?{request.GET.urlencode()}" if request.GET else ""
            links = [("New contract", reverse("admin:contracts_contract_new")), ("Change many", bulk + query)]
        return super().changelist_view(request, {"list_links": links, **(extra_context or {})})

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        response = super().change_view(request, object_id, form_url, extra_context)
        context = getattr(response, "context_data", None) or {}
        contract = context.get("original")
        if isinstance(contract, Contract):
            context |= self._header(request, contract, context["object_actions"])
        return response

    def action_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        return operating.operation_view(self, request, self._contract(request, object_id), name)

    def new_view(self, request: HttpRequest) -> HttpResponse:
        return operating.new_view(self, request)

    def batch_view(self, request: HttpRequest, object_id: Any) -> HttpResponse:
        return batching.batch_view(self, request, self._contract(request, str(object_id)))

    def document_view(self, request: HttpRequest, object_id: Any) -> HttpResponse:
        return documents.document_view(self, request, self._contract(request, str(object_id)))

    def pdf_view(self, request: HttpRequest, object_id: Any) -> HttpResponse:
        return documents.pdf_view(request, self._contract(request, str(object_id)))

    def _contract(self, request: HttpRequest, object_id: str) -> Contract:
        """The contract, of which everyone reads who may see contracts at all."""
        found = self.get_object(request, unquote(object_id))
        if found is None:
            raise Http404
        if not self.has_view_permission(request, found):
            raise PermissionDenied
        return found

    def _header(
        self, request: HttpRequest, contract: Contract, buttons: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        asked = asked_instants(request)
        may_edit = not asked and request.user.has_perm("contracts.edit_contract")
        drafted = drafts.size(contract=contract, actor=Actor.for_user(request.user)) if may_edit else 0
        return {
            "strip": self._strip(request, contract),
            "banner": as_of_banner("This is the contract", asked, admin_url(contract)),
            "as_of": as_of_form(asked, _kept_tab(request)),
            "documents": documents.links_of(request, contract),
            "possible": [button for button in buttons if not button["why_not"]],
            "impossible": [button for button in buttons if button["why_not"]],
            "batch": reverse("admin:contracts_contract_batch", args=[contract.pk]) if may_edit else "",
            "drafted": drafted,
        }

    def _strip(self, request: HttpRequest, contract: Contract) -> SafeString:
        """Who, what, from when to when, at the instants that the page shows."""
        view = view_of(contract, request)
        state = view.state
        if not state.exists:
            return facts({"Number": contract.number, "Status": "It was not known then."})
        parties = Organization.objects.in_bulk([state.buyer_id, *state.seller_ids])
        sellers = [(link(parties[id_]),) for id_ in state.seller_ids if id_ in parties]
        status = [badge(state.status)]
        status += [badge("in trial", "busy")] if state.trial else []
        status += [badge("to be signed again", "warn")] if state.needs_resign else []
        status += [badge("does not renew", "warn")] if state.opted_out else []
        planned = not view.asked and contract.next_due_at
        return facts(
            {
                "Number": contract.number,
                "Status": format_html_join(" ", "{}", ((word,) for word in status)),
                "Buyer": link(parties.get(state.buyer_id)),
                "Sellers": format_html_join(", ", "{}", sellers) or NOTHING,
                "Currency": state.currency,
                "Starts": instant(state.start_at),
                "Ends": instant(state.end_at) if state.end_at else "open",
                "Version": state.version,
                **({"Next change": instant(contract.next_due_at)} if planned else {}),
            }
        )

    @admin.display(description="Status")
    def state_badge(self, obj: Contract) -> SafeString:
        return badge(obj.status)

    @admin.display(description="Buyer")
    def buyer_link(self, obj: Contract) -> SafeString:
        return link(obj.buyer)

    @admin.display(description="Starts")
    def starts(self, obj: Contract) -> SafeString:
        return instant(obj.start_at)

    @admin.display(description="Ends")
    def ends(self, obj: Contract) -> SafeString | str:
        return instant(obj.end_at) if obj.end_at else "open"


def _kept_tab(request: HttpRequest) -> SafeString | str:
    tab = request.GET.get("tab", "")
    return format_html('<input type="hidden" name="tab" value="{}">', tab) if tab else ""


@admin.register(ContractEdit)
class ContractEditAdmin(ConsoleAdmin):
    """The log: written once, never changed."""

    icon = "history"
    list_display = ("seq", "contract_link", "operation", "effective", "recorded", "actor", "reason")
    list_filter = ("operation",)
    list_select_related = ("contract",)
    search_fields = ("contract__number__startswith", "id__exact")
    search_help_text = "How the contract's number begins, or the id."
    fields = (
        "contract_link", "version", "what", "effective", "recorded", "actor", "reason", "agreed", "changes",
        "shown_payload", "request_id", "idempotency_key", "shown_hash", "shown_prev_hash",
    )  # fmt: skip

    @admin.display(description="Contract")
    def contract_link(self, obj: ContractEdit) -> SafeString:
        return link(obj.contract)

    @admin.display(description="Version")
    def version(self, obj: ContractEdit) -> int:
        return obj.seq

    @admin.display(description="Operation")
    def what(self, obj: ContractEdit) -> str:
        edit = next(edit for edit in edits_of(obj.contract) if edit.seq == obj.seq)
        return title_of(edit.operation, edit.payload)

    @admin.display(description="Effective")
    def effective(self, obj: ContractEdit) -> SafeString:
        return instant(obj.effective_at)

    @admin.display(description="Recorded")
    def recorded(self, obj: ContractEdit) -> SafeString:
        return instant(obj.recorded_at)

    @admin.display(description="By")
    def actor(self, obj: ContractEdit) -> str:
        return obj.actor_label or f"{obj.actor_type}:{obj.actor_id}"

    @admin.display(description="Requested by")
    def agreed(self, obj: ContractEdit) -> str:
        asked = Approval.objects.filter(pk=obj.approval_id).first() if obj.approval_id else None
        return asked.maker_name if asked else obj.requested_by or "—"

    @admin.display(description="Changed")
    def changes(self, obj: ContractEdit) -> SafeString:
        """What it changed at its instant, as the log was when it came."""
        until = [edit for edit in edits_of(obj.contract) if edit.seq <= obj.seq]
        before = fold.fold(until[:-1], valid_at=obj.effective_at)
        after = fold.fold(until, valid_at=obj.effective_at)
        if not before.exists:
            return SafeString("The draft was made.")
        said = shown_changes(changed(before, after, names_of(before, after)))
        return format_html('<div class="c-wide">{}</div>', said)

    @admin.display(description="Payload, as it is kept")
    def shown_payload(self, obj: ContractEdit) -> SafeString:
        return shown_json(obj.payload)

    @admin.display(description="Hash")
    def shown_hash(self, obj: ContractEdit) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.hash)

    @admin.display(description="Hash before it")
    def shown_prev_hash(self, obj: ContractEdit) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.prev_hash) if obj.prev_hash else NOTHING

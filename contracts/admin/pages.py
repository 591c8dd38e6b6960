"""The pages of contracts, their edits and the products they rent out."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from commerce.console.actions import ObjectAction
from commerce.console.as_of import asked_instants
from commerce.console.base import ConsoleAdmin
from commerce.console.format import badge, instant, link, shown_json
from commerce.parties.models import Organization
from contracts.admin.actions import actions_of
from contracts.models import Contract, ContractEdit, Product


@admin.register(Contract)
class ContractAdmin(ConsoleAdmin):
    """One buyer, one currency, under terms. Every change is an operation in its log."""

    icon = "contract"
    list_display = ("number", "state_badge", "buyer_link", "currency", "starts", "ends", "version")
    list_filter = ("status",)
    list_select_related = ("buyer",)
    search_fields = ("number__startswith", "id__exact")
    search_help_text = "How the number begins, or the id."
    fields = (
        "number", "state_badge", "buyer_link", "sellers", "currency", "version", "starts", "ends", "as_of",
        "next_change",
    )  # fmt: skip

    def get_object_actions(self, request: HttpRequest, obj: Contract) -> list[ObjectAction]:
        return [] if asked_instants(request) else actions_of(obj)

    @admin.display(description="Status")
    def state_badge(self, obj: Contract) -> SafeString:
        return badge(obj.status)

    @admin.display(description="Buyer")
    def buyer_link(self, obj: Contract) -> SafeString:
        return link(obj.buyer)

    @admin.display(description="Sellers")
    def sellers(self, obj: Contract) -> SafeString | str:
        rows = Organization.objects.filter(pk__in=obj.seller_ids).order_by("name")
        return format_html_join(", ", "{}", ((link(row),) for row in rows)) or "—"

    @admin.display(description="Starts")
    def starts(self, obj: Contract) -> SafeString:
        return instant(obj.start_at)

    @admin.display(description="Ends")
    def ends(self, obj: Contract) -> SafeString | str:
        return instant(obj.end_at) if obj.end_at else "open"

    @admin.display(description="As of")
    def as_of(self, obj: Contract) -> SafeString:
        return instant(obj.projected_at)

    @admin.display(description="Next change")
    def next_change(self, obj: Contract) -> SafeString | str:
        return instant(obj.next_due_at) if obj.next_due_at else "none planned"


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
        "contract_link", "seq", "operation", "effective", "recorded", "actor", "reason", "shown_payload",
        "request_id", "idempotency_key", "hash", "prev_hash",
    )  # fmt: skip

    @admin.display(description="Contract")
    def contract_link(self, obj: ContractEdit) -> SafeString:
        return link(obj.contract)

    @admin.display(description="Effective")
    def effective(self, obj: ContractEdit) -> SafeString:
        return instant(obj.effective_at)

    @admin.display(description="Recorded")
    def recorded(self, obj: ContractEdit) -> SafeString:
        return instant(obj.recorded_at)

    @admin.display(description="By")
    def actor(self, obj: ContractEdit) -> str:
        return obj.actor_label or f"{obj.actor_type}:{obj.actor_id}"

    @admin.display(description="Payload")
    def shown_payload(self, obj: ContractEdit) -> SafeString:
        return shown_json(obj.payload)


@admin.register(Product)
class ProductAdmin(ConsoleAdmin):
    """The catalogue. Those who administer may add and change products; lines keep what they were sold as."""

    icon = "dns"
    list_display = ("code", "name", "kind", "unit", "meter", "active")
    list_filter = ("kind", "active")
    search_fields = ("code__startswith",)
    search_help_text = "How the code begins."
    fields = ("code", "name", "kind", "unit", "meter", "active")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("contracts.add_product")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("contracts.change_product")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("code", "kind", "unit", "meter") if obj else ()

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        return ModelAdmin.change_view(self, request, object_id, form_url, extra_context)

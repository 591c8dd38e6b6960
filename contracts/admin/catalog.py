"""The catalogue in the console."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin

from commerce.console.base import ConsoleAdmin
from contracts.models import Product


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

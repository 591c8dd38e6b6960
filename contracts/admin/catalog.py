"""The catalogue in the console: products, what sellers ask for them, and who has taken which units."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from commerce import states
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import facts, table
from commerce.console.format import NOTHING, badge, instant, link, number
from commerce.console.registry import Hit, register_panel, register_search
from contracts import services
from contracts.admin.catalog_forms import EDIT, Button, edit_view, import_view
from contracts.admin.words import price_in_words
from contracts.models import Offer, Product, Reservation, Stock
from contracts.rules.offers import MAX_CAPACITY

ROWS_SHOWN = 50


class CatalogueAdmin(ConsoleAdmin):
    """What the pages of products and of offers have in common: a file may be imported."""

    imports = ""
    import_permissions: Sequence[str] = ()
    list_before_template = "contracts/list_about.html"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.import_view)
        return [path("import/", view, name=f"contracts_{self.opts.model_name}_import"), *super().get_urls()]

    def may_import(self, request: HttpRequest) -> bool:
        return all(request.user.has_perm(permission) for permission in self.import_permissions)

    def links(self, request: HttpRequest) -> list[tuple[str, str]]:
        address = reverse(f"admin:contracts_{self.opts.model_name}_import")
        return [("Import", address)] if self.may_import(request) else []

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, {"list_links": self.links(request), **(extra_context or {})})

    def import_view(self, request: HttpRequest) -> HttpResponse:
        if not self.may_import(request):
            raise PermissionDenied
        return import_view(self, request, self.imports)


@admin.register(Product)
class ProductAdmin(CatalogueAdmin):
    """What can be rented. Those who administer may add and change products; lines keep what they were sold
    as."""

    icon = "dns"
    imports = "products"
    import_permissions = ("contracts.add_product", "contracts.change_product")
    list_display = ("code", "name", "kind", "unit", "meter", "active")
    list_filter = ("kind", "active")
    search_fields = ("code__startswith",)
    search_help_text = "How the code begins."
    fields = ("code", "name", "description", "kind", "unit", "meter", "active")

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


class CapacityForm(forms.Form):
    capacity = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=MAX_CAPACITY,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Units in all, for every version together; no limit when left empty.",
    )


def _publish(*, obj: Offer, **context: Any) -> str:
    offer = services.publish_offer(offer_id=obj.pk, **context)
    return f"{offer} is live."


def _withdraw(*, obj: Offer, **context: Any) -> str:
    offer = services.withdraw_offer(offer_id=obj.pk, **context)
    return f"{offer} is withdrawn."


def _set_capacity(*, obj: Offer, reason: str, **context: Any) -> str:
    stock = services.set_capacity(offer_id=obj.pk, **context)
    return f"{obj.code} has {'no limit' if stock.capacity is None else f'{stock.capacity:,} units'}."


def _release(*, obj: Reservation, **context: Any) -> str:
    services.release_hold(reservation_id=obj.pk, **context)
    return f"{obj.quantity:,} units are free again."


def _published(offer: Offer) -> str:
    live = Offer.objects.filter(stock=offer.stock_id, status=Offer.Status.LIVE).first()
    instead = f" instead of {live}, which is withdrawn" if live else ""
    return f"Lines may be sold on it from then on{instead}. Lines that were sold keep their price."


def _taken(offer: Offer) -> str:
    stock = offer.stock
    return f"{stock.committed:,} units are committed and {stock.held:,} held: it cannot be fewer."


@admin.register(Offer)
class OfferAdmin(CatalogueAdmin):
    """What a seller asks for a product. A version is never rewritten: another price is another version, and
    all of a code share one stock of units."""

    icon = "sell"
    imports = "offers"
    import_permissions = (EDIT,)
    list_display = ("name", "seller_link", "product_link", "asked", "state", "units", "from_when", "until")
    list_filter = ("status",)
    list_select_related = ("seller", "product", "stock")
    search_fields = ("code__startswith", "id__exact")
    search_help_text = "How the code begins, or the id."
    fields = (
        "name", "state", "seller_link", "product_link", "asked", "from_when", "until", "min_term",
        "sla_policy", "tax_code", "terms", "published", "withdrawn",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "publish", "Publish", permission="contracts.publish_offer", run=_publish,
            available=lambda obj: states.available(obj, "publish"), consequences=_published,
        ),
        ObjectAction(
            "set-capacity", "Set capacity", permission=EDIT, run=_set_capacity, form=CapacityForm,
            consequences=_taken,
        ),
        ObjectAction(
            "withdraw", "Withdraw", permission="contracts.withdraw_offer", run=_withdraw, danger=True,
            available=lambda obj: states.available(obj, "withdraw"),
            consequences=lambda obj: "No new line may use it. Lines that were sold, or hold units, go on.",
        ),
    )  # fmt: skip

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.new_view)
        return [path("new/", view, name="contracts_offer_new"), *super().get_urls()]

    def get_object_actions(self, request: HttpRequest, obj: Any) -> Sequence[Any]:
        return [Button("revise", "Revise", EDIT, _only_the_latest), *self.object_actions]

    def links(self, request: HttpRequest) -> list[tuple[str, str]]:
        new = [("New offer", reverse("admin:contracts_offer_new"))] if request.user.has_perm(EDIT) else []
        return [*new, *super().links(request)]

    def new_view(self, request: HttpRequest) -> HttpResponse:
        if not request.user.has_perm(EDIT):
            raise PermissionDenied
        return edit_view(self, request, None)

    def action_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        if name != "revise":
            return super().action_view(request, object_id, name)
        offer = self.get_object(request, unquote(object_id))
        if offer is None:
            raise Http404
        if not self.has_view_permission(request, offer) or not request.user.has_perm(EDIT):
            raise PermissionDenied
        return edit_view(self, request, offer, why_not=_only_the_latest(offer))

    @admin.display(description="Offer")
    def name(self, obj: Offer) -> str:
        return str(obj)

    @admin.display(description="Seller")
    def seller_link(self, obj: Offer) -> SafeString:
        return link(obj.seller)

    @admin.display(description="Product")
    def product_link(self, obj: Offer) -> SafeString:
        return link(obj.product)

    @admin.display(description="Price")
    def asked(self, obj: Offer) -> SafeString:
        return price_in_words(obj.asked)

    @admin.display(description="State")
    def state(self, obj: Offer) -> SafeString:
        return badge(obj.status, {"live": "good", "draft": "plain", "withdrawn": "bad"}[obj.status])

    @admin.display(description="Units")
    def units(self, obj: Offer) -> SafeString:
        stock = obj.stock
        taken = stock.held + stock.committed
        return format_html(
            "{} of {}", f"{taken:,}", "any" if stock.capacity is None else f"{stock.capacity:,}"
        )

    @admin.display(description="Valid from")
    def from_when(self, obj: Offer) -> SafeString:
        return instant(obj.valid_from)

    @admin.display(description="Until")
    def until(self, obj: Offer) -> SafeString | str:
        return instant(obj.valid_to) if obj.valid_to else "open"

    @admin.display(description="Minimum term")
    def min_term(self, obj: Offer) -> SafeString | str:
        return f"{obj.min_term_months} months" if obj.min_term_months else NOTHING

    @admin.display(description="Published")
    def published(self, obj: Offer) -> SafeString:
        return instant(obj.published_at)

    @admin.display(description="Withdrawn")
    def withdrawn(self, obj: Offer) -> SafeString:
        return instant(obj.withdrawn_at)


@admin.register(Reservation)
class ReservationAdmin(ConsoleAdmin):
    """Units of offers that contract lines have taken: held while a contract is drawn up, then committed."""

    icon = "inventory_2"
    list_display = ("what", "offer_link", "contract_link", "state", "held", "expires")
    list_display_links = ("what",)
    list_filter = ("status",)
    list_select_related = ("offer", "contract")
    search_fields = ("contract__number__startswith", "id__exact")
    search_help_text = "How the contract's number begins, or the id."
    fields = (
        "what", "state", "offer_link", "contract_link", "line_id", "held", "expires", "committed", "released",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "release", "Release", permission="contracts.release_reservation", run=_release, danger=True,
            available=lambda obj: "" if obj.status == "held" else "Only held units are released by hand.",
            consequences=lambda obj: (
                f"{obj.quantity:,} units are free at once. The contract takes them again when it moves on, "
                "if they are still there."
            ),
        ),
    )  # fmt: skip

    @admin.display(description="Units")
    def what(self, obj: Reservation) -> str:
        return f"{obj.quantity:,} × {obj.offer.code}"

    @admin.display(description="Offer")
    def offer_link(self, obj: Reservation) -> SafeString:
        return link(obj.offer)

    @admin.display(description="Contract")
    def contract_link(self, obj: Reservation) -> SafeString:
        return link(obj.contract)

    @admin.display(description="State")
    def state(self, obj: Reservation) -> SafeString:
        return badge(obj.status, {"held": "warn", "committed": "good", "released": "plain"}[obj.status])

    @admin.display(description="Held")
    def held(self, obj: Reservation) -> SafeString:
        return instant(obj.held_at)

    @admin.display(description="Expires")
    def expires(self, obj: Reservation) -> SafeString:
        return instant(obj.expires_at)

    @admin.display(description="Committed")
    def committed(self, obj: Reservation) -> SafeString:
        return instant(obj.committed_at)

    @admin.display(description="Released")
    def released(self, obj: Reservation) -> SafeString:
        return instant(obj.released_at)


def _only_the_latest(offer: Offer) -> str:
    latest = Offer.objects.filter(stock=offer.stock_id).order_by("-version")[0]
    return "" if latest == offer else f"{latest} is the latest version: revise that."


def _units_panel(offer: Offer, request: HttpRequest) -> SafeString:
    stock = offer.stock
    limit = "no limit" if stock.capacity is None else number(stock.capacity)
    free = "no limit" if stock.free is None else number(stock.free)
    found = {
        "In all": limit, "Committed": number(stock.committed), "Held": number(stock.held), "Free": free,
    }  # fmt: skip
    return format_html("{}{}", _bar(stock), facts(found))


def _bar(stock: Stock) -> SafeString:
    if not stock.capacity:
        return SafeString()
    widths = (f"{100 * units / stock.capacity:.2f}" for units in (stock.committed, stock.held))
    return format_html(
        '<div class="c-shares" role="img" aria-label="{} of {} units are taken">'
        '<span class="c-good" style="width:{}%"></span><span class="c-warn" style="width:{}%"></span></div>',
        stock.committed + stock.held,
        stock.capacity,
        *widths,
    )


def _versions_panel(offer: Offer, request: HttpRequest) -> SafeString:
    versions = Offer.objects.filter(stock=offer.stock_id).order_by("-version")[:ROWS_SHOWN]
    rows = (
        (
            str(version) if version == offer else link(version),
            price_in_words(version.asked),
            badge(version.status, "good" if version.status == "live" else "plain"),
            instant(version.published_at),
            instant(version.withdrawn_at),
        )
        for version in versions
    )
    return table(["Version", "Price", "State", "Published", "Withdrawn"], rows)


def _reservations_panel(offer: Offer, request: HttpRequest) -> SafeString:
    found = Reservation.objects.filter(offer=offer).select_related("contract").order_by("-id")[:ROWS_SHOWN]
    rows = (
        (
            link(row.contract),
            link(row, f"{row.quantity:,}"),
            badge(row.status, {"held": "warn", "committed": "good"}.get(row.status, "plain")),
            instant(row.held_at),
            instant(row.expires_at),
        )
        for row in found
    )
    return table(
        ["Contract", ">Units", "State", "Held", "Expires"], rows, empty="No line was sold on this version."
    )


def _find(term: str) -> list[Hit]:
    found = Offer.objects.filter(code__startswith=term).select_related("seller").order_by("code", "-version")
    return [
        Hit(f"{offer} of {offer.seller}", reverse("admin:contracts_offer_change", args=[offer.pk]), "offer")
        for offer in found[:20]
    ]


VIEW = "contracts.view_offer"
register_panel("contracts.offer", title="Units", render=_units_panel, order=10)
register_panel("contracts.offer", title="Versions", render=_versions_panel, order=20)
register_panel(
    "contracts.offer", title="Reserved on this version", render=_reservations_panel, order=30,
    permission="contracts.view_reservation",
)  # fmt: skip
register_search(_find, VIEW)

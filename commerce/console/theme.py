"""How the console looks and is found one's way in: environment badge, sidebar, Ctrl-K, stylesheet."""

from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils.text import capfirst
from unfold.dataclasses import SearchResult

from commerce import clock
from commerce.console import registry

HITS_PER_SEARCH = 20
# Applications by what operators do with them; an application that is not here comes last.
GROUPS = (
    ("Contracts", "contract", ("contracts",)),
    ("Billing", "receipt_long", ("billing",)),
    ("Payouts", "payments", ("payouts",)),
    ("Ledger", "account_balance", ("ledger",)),
    ("Organizations", "domain", ("parties",)),
    ("Operations", "sync_alt", ("console", "outbox", "webhooks", "providers", "commerce")),
    ("Access", "key", ("auth", "api", "admin")),
)


def stylesheet(request: HttpRequest) -> str:
    return static("console/console.css")


def favicon(request: HttpRequest) -> str:
    return static("console/icon.svg")


def environment(request: HttpRequest) -> list[str]:
    """The badge in the header: which environment this is and what time it is for the business."""
    tone = "danger" if settings.PRODUCTION else "warning"
    now = clock.now()
    what = "test clock" if clock.is_simulated() else "UTC"
    return [f"{settings.ENVIRONMENT} · {now.day} {now:%b %Y %H:%M} {what}", tone]


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Home, then every registered page this person may see, by group."""
    home = {"title": "Home", "icon": "home", "link": reverse("admin:index")}
    found: list[dict[str, Any]] = [{"title": "", "items": [home]}]
    pages: dict[str, list[dict[str, Any]]] = {}
    for model, page in admin.site._registry.items():
        if page.has_view_permission(request):
            meta = model._meta
            pages.setdefault(meta.app_label, []).append(
                {
                    "title": capfirst(meta.verbose_name_plural),
                    "icon": getattr(page, "icon", ""),
                    "link": reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist"),
                }
            )
            pages[meta.app_label] += [
                {"title": title, "icon": icon, "link": reverse(name)}
                for title, icon, name in getattr(page, "menu", ())
            ]
    listed = {label for _, _, labels in GROUPS for label in labels}
    others = [
        (str(apps.get_app_config(label).verbose_name), "category", (label,))
        for label in sorted(set(pages) - listed)
    ]
    for title, icon, labels in (*GROUPS, *others):
        items = [{**item, "icon": item["icon"] or icon} for label in labels for item in pages.get(label, [])]
        if items:
            found.append({"title": title, "separator": True, "items": items})
    _mark_current(request.path, [item for group in found for item in group["items"]])
    return found


def _mark_current(path: str, items: list[dict[str, Any]]) -> None:
    """The page that is open, or the nearest above it, is current; the skin would mark all above it."""
    home = reverse("admin:index")
    above = [item["link"] for item in items if path.startswith(item["link"]) and item["link"] != home]
    current = max(above, key=len, default=home if path == home else "")
    for item in items:
        item["active"] = item["link"] == current


def search(request: HttpRequest, _lowered: str) -> list[SearchResult]:
    """Ctrl-K: ask every registered search this person may use. The skin lowers the term; we do not."""
    term = request.GET.get("s", "").strip()
    if len(term) < 3 or "\x00" in term:
        return []
    found = []
    for permission, ask in registry.searches():
        if permission and not request.user.has_perm(permission):
            continue
        for hit, _ in zip(ask(term), range(HITS_PER_SEARCH), strict=False):
            found.append(SearchResult(title=hit.label, description=hit.kind, link=hit.url, icon="search"))
    return found

"""The base of every admin page: read-only, affordable at any size, changed through actions only."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from django.contrib import messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.utils import unquote
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, PermissionDenied, ValidationError
from django.db import OperationalError
from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst, slugify
from unfold.admin import ModelAdmin
from unfold.views import ChangeList

from commerce.actor import Actor
from commerce.api.problems import translate
from commerce.console import registry
from commerce.console.actions import ObjectAction, ShownOnce, fingerprint
from commerce.console.export_links import export_link
from commerce.console.paginator import CappedPaginator
from commerce.errors import CommerceError
from commerce.logs import request_id
from commerce.models import TransitionLog

TIMELINE_ROWS = 100


class CountedOnce(ChangeList):
    """Says how many rows match; how many there are besides would be a second count."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.title = capfirst(self.opts.verbose_name_plural)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count


class ConsoleAdmin(ModelAdmin):
    """Nobody adds, changes or deletes here, superusers included; `object_actions` call services.

    Lists: `-id` order, 50 rows, a capped count, `list_select_related` as a tuple, `search_fields`
    only `<column>__exact` or `<column>__startswith` on indexed columns. `keyed_by` names two columns
    that are indexed together and found as "kind:key". `exported` names the sources of its exports,
    `menu` further pages of its own for the navigation: title, icon and the name of the address. With
    `tabbed` an object's page shows the panels of one tab, and asks for nothing of the others.
    """

    object_actions: Sequence[ObjectAction] = ()
    icon = ""
    keyed_by: tuple[str, str] | None = None
    exported: Sequence[str] = ()
    menu: Sequence[tuple[str, str, str]] = ()
    tabbed = False

    actions: ClassVar[Any] = None
    paginator: ClassVar[Any] = CappedPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0
    list_fullwidth = True
    list_select_related: ClassVar[Any] = ()
    ordering: ClassVar[Any] = ("-id",)
    sortable_by: ClassVar[Any] = ()
    list_filter_submit = False
    empty_value_display = "—"
    compressed_fields = False
    list_before_template = "console/list_about.html"
    change_form_outer_before_template = "console/object_header.html"
    change_form_outer_after_template = "console/object_panels.html"

    @property
    def about(self) -> str:
        """The page's own docstring, shown above its list and where the list is empty."""
        return " ".join((type(self).__dict__.get("__doc__") or "").split())

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CountedOnce

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        """The whole term, as it is, against each search field whose type it fits."""
        term = search_term.strip()
        if not term:
            return queryset, False
        fitting = Q(pk__in=[])
        if self.keyed_by and ":" in term:
            kind, _, key = term.partition(":")
            if "\x00" not in term:
                fitting |= Q(**dict(zip(self.keyed_by, (kind, key), strict=True)))
        for lookup in self.get_search_fields(request):
            if self._fits(lookup, term):
                fitting |= Q(**{lookup: term})
        return queryset.filter(fitting), False

    def _fits(self, lookup: str, term: str) -> bool:
        model, parts = self.model, lookup.split("__")
        try:
            for part in parts[:-2]:
                model = model._meta.get_field(part).related_model
            model._meta.get_field(parts[-2]).to_python(term)
        except (FieldDoesNotExist, ValidationError, ValueError):
            return False
        return "\x00" not in term

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_do"
        view = self.admin_site.admin_view(self.action_view)
        return [path("<path:object_id>/do/<slug:name>/", view, name=name), *super().get_urls()]

    def get_exported(self) -> Sequence[str]:
        return self.exported

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        chosen = {name.removesuffix("__exact"): value for name, value in request.GET.items()}
        links = [export_link(request, name, **chosen) for name in self.get_exported()]
        return super().changelist_view(request, {"export_links": links, **(extra_context or {})})

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        obj = self.get_object(request, unquote(object_id))
        context = dict(extra_context or {})
        if obj is not None and self.has_view_permission(request, obj):
            if not self.has_change_permission(request, obj):
                context["title"] = capfirst(self.opts.verbose_name)
            context |= {"object_actions": self.buttons(request, obj), **self.body(request, obj)}
        return super().change_view(request, object_id, form_url, context)

    def get_object_actions(self, request: HttpRequest, obj: Any) -> Sequence[ObjectAction]:
        return self.object_actions

    def buttons(self, request: HttpRequest, obj: Model) -> list[dict[str, Any]]:
        """The actions this person may ever do; a button that cannot be pressed now says why."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_do"
        return [
            {
                "action": action,
                "why_not": action.available(obj),
                "url": reverse(name, args=[quote(str(obj.pk)), action.name]),
            }
            for action in self.get_object_actions(request, obj)
            if request.user.has_perm(action.permission)
        ]

    def body(self, request: HttpRequest, obj: Model) -> dict[str, Any]:
        """Panels and timeline; of a page with tabs only what is on the one that `?tab=` names.

        What comes first of all (order 0), such as what is held up, is above the tabs.
        """
        panels = [
            panel
            for panel in registry.panels(self.opts.label_lower)
            if not panel.permission or request.user.has_perm(panel.permission)
        ]
        if not self.tabbed:
            return {"panels": _rendered(panels, obj, request), "timeline": timeline_of(obj)}
        urgent = [panel for panel in panels if panel.order == 0]
        panels = [panel for panel in panels if panel.order]
        titles = {slugify(title): title for title in (panel.tab or panel.title for panel in panels)}
        slugs = list(dict.fromkeys([*list(titles)[:1], "timeline", *titles]))
        chosen = request.GET.get("tab", "")
        chosen = chosen if chosen in slugs else slugs[0]
        own = [panel for panel in panels if slugify(panel.tab or panel.title) == chosen]
        return {
            "tabs": [
                {"title": titles.get(slug, "Timeline"), "url": _tab(request, slug), "current": slug == chosen}
                for slug in slugs
            ],
            "urgent": _rendered(urgent, obj, request),
            "panels": _rendered(own, obj, request),
            "timeline": timeline_of(obj) if chosen == "timeline" else None,
        }

    def action_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """GET: the confirmation. POST: the action. 403 without its permission, either way."""
        obj = self.get_object(request, unquote(object_id))
        if obj is None:
            raise Http404
        action = next((a for a in self.get_object_actions(request, obj) if a.name == name), None)
        if action is None:
            raise Http404
        if not self.has_view_permission(request, obj) or not request.user.has_perm(action.permission):
            raise PermissionDenied
        status, shown = 200, ""
        if request.method == "POST":
            form = action.build_form(request.POST)
            status = 422
            if form.is_valid():
                actor = Actor.for_user(request.user, request_id.get())
                try:
                    result = action.execute(obj, actor=actor, form=form)
                except (CommerceError, OperationalError) as caught:
                    error = translate(caught)
                    obj.refresh_from_db()
                    posted = request.POST.copy()
                    posted["fingerprint"] = fingerprint(obj)
                    form = action.build_form(posted)
                    form.is_valid()
                    form.add_error(None, str(error))
                    status = error.status
                else:
                    if not isinstance(result, ShownOnce):
                        told = result if isinstance(result, str) else f"{action.label}: done."
                        messages.success(request, told)
                        return HttpResponseRedirect(self._page_of(object_id))
                    status, shown = 200, result
        else:
            form = action.build_form(obj=obj)
        context = {
            **self.admin_site.each_context(request),
            "title": action.label,
            "subtitle": str(obj),
            "opts": self.opts,
            "original": obj,
            "action": action,
            "why_not": action.available(obj),
            "consequences": action.consequences(obj),
            "form": form,
            "shown": shown,
            "back": self._page_of(object_id),
        }
        return TemplateResponse(request, "console/action.html", context, status=status)

    def _page_of(self, object_id: str) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id])


def _tab(request: HttpRequest, slug: str) -> str:
    """The address of a tab at the instants that the page shows."""
    kept = {name: request.GET[name] for name in ("valid_at", "known_at") if request.GET.get(name)}
    return f"?{urlencode({'tab': slug, **kept})}"


def _rendered(panels: Iterable[registry.Panel], obj: Model, request: HttpRequest) -> list[dict[str, Any]]:
    found = [{"title": panel.title, "body": _body(panel, obj, request)} for panel in panels]
    return [panel for panel in found if panel["body"]]


def _body(panel: registry.Panel, obj: Model, request: HttpRequest) -> SafeString:
    """What a service refuses to read is a sentence in its panel, and the page is there all the same."""
    try:
        return panel.render(obj, request)
    except CommerceError as error:
        return format_html('<p class="c-notice c-bad" role="alert">{}</p>', error)


def timeline_of(obj: Model) -> list[registry.TimelineRow]:
    """Every feed registered for the object's model, else its state changes, merged, newest first."""
    feeds = registry.timelines(obj._meta.label_lower) or [state_changes]
    rows = [row for feed in feeds for row in feed(obj)]
    return sorted(rows, key=lambda row: row.at, reverse=True)[:TIMELINE_ROWS]


def state_changes(obj: Model) -> Iterator[registry.TimelineRow]:
    """A timeline feed: what the transition log says about the object."""
    found = TransitionLog.objects.filter(model=obj._meta.label_lower, object_id=str(obj.pk))
    changes = list(found.order_by("-id")[:TIMELINE_ROWS])
    people = {change.actor.removeprefix("user:") for change in changes if change.actor.startswith("user:")}
    users = get_user_model().objects.filter(pk__in=people) if people else ()
    names = {f"user:{user.pk}": user.get_username() for user in users}
    for change in changes:
        title = f"{change.source} → {change.target}".replace("_", " ")
        actor = names.get(change.actor, change.actor)
        yield registry.TimelineRow(change.at, "state", title, change.reason, actor)

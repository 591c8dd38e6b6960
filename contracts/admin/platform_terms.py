"""The platform's terms in the console: each version, what it changed, and the form that asks for the next."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from commerce import clock
from commerce.actor import Actor
from commerce.api.problems import translate
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import NOTHING, admin_url, badge, instant, link
from commerce.console.panels import approvals_of
from commerce.console.registry import register_panel
from commerce.errors import CommerceError, VersionConflict
from commerce.logs import request_id
from contracts.admin.choices import Offered
from contracts.admin.payload_form import Group, InstantField, PayloadForm, payload_form
from contracts.admin.words import Names, fields_of, in_words, phrase, title_of_section
from contracts.models import PlatformTerms
from contracts.rules.fold import NOTHING as NO_STATE
from contracts.rules.platform import PER_CONTRACT, Json, PlatformDefaults
from contracts.rules.state import digest
from contracts.services import terms


class Envelope(forms.Form):
    """When the version begins and why; and the hash of what was shown before it is asked for."""

    effective_at = InstantField(
        required=False,
        label="Begins",
        widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local", "step": "1"}),
        help_text="UTC; when it is agreed to, if left empty.",
    )
    reason = forms.CharField(max_length=500, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}))
    seen = forms.CharField(widget=forms.HiddenInput, required=False)


@dataclass
class _Asking:
    """One visit to the form of the next version."""

    page: ConsoleAdmin
    request: HttpRequest
    row: PlatformTerms

    def answer(self) -> HttpResponse:
        step = self.request.POST.get("step", "")
        form = self._form(fresh=step == "rows")
        if step not in ("preview", "confirm"):
            return self._shown(form)
        if not form.is_valid():
            return self._shown(form, status=422)
        try:
            preview = terms.preview_platform_terms(**self._asked(form), at=clock.now())
            if step == "preview":
                return self._shown(form, preview)
            return self._confirmed(form, digest(preview))
        except (CommerceError, OperationalError) as caught:
            error = translate(caught)
            faults = [replace(fault, pointer=f"/payload{fault.pointer}") for fault in error.errors]
            form.blame(faults, error.detail)
            return self._shown(form, status=error.status)

    def _form(self, *, fresh: bool) -> PayloadForm:
        """The values of the version or what was posted; `fresh` shows the latter again with more rows."""
        posted = self.request.POST if self.request.method == "POST" else None
        form = payload_form(
            PlatformDefaults, Offered("platform_terms", None, NO_STATE), initial=self.row.sections,
            data=None if fresh else posted, entered=posted if fresh else None, more=fresh, base=Envelope,
        )  # fmt: skip
        for section, names in PER_CONTRACT.items():
            group = cast(Group, form.tree.children[section])
            for name in names:
                del group.children[name], form.fields[f"payload.{section}.{name}"]
        return form

    def _asked(self, form: PayloadForm) -> dict[str, Any]:
        """What was entered: a value that was emptied is taken back."""
        given, begins = form.payload(), form.cleaned_data["effective_at"]
        return {
            "changes": {
                section: dict.fromkeys(values) | given.get(section, {})
                for section, values in self.row.sections.items()
            },
            "effective_at": datetime.fromisoformat(begins) if begins else None,
        }

    def _confirmed(self, form: PayloadForm, seen: str) -> HttpResponse:
        if form.cleaned_data["seen"] != seen:
            raise VersionConflict("This is no longer what you looked at. Look again.")
        approval = terms.request_platform_terms(
            **self._asked(form),
            expected_version=self.row.version,
            actor=Actor.for_user(self.request.user, request_id.get()),
            at=clock.now(),
            reason=form.cleaned_data["reason"],
        )
        messages.success(
            self.request, f"Asked for. Somebody else has until {approval.expires_at:%-d %B} to agree."
        )
        return HttpResponseRedirect(admin_url(self.row))

    def _shown(
        self, form: PayloadForm, preview: tuple[Json, Json] | None = None, status: int = 200
    ) -> HttpResponse:
        context = {
            **self.page.admin_site.each_context(self.request),
            "title": _ASK.label,
            "subtitle": str(self.row),
            "opts": self.page.opts,
            "original": self.row,
            "why_not": _only_the_last(self.row),
            "form": form,
            "back": admin_url(self.row),
        }
        if preview:
            context["preview"] = _compared(*preview, self.row.version, self.row.version + 1)
            context["carried"] = [*_entered(self.request.POST), ("seen", digest(preview))]
        return TemplateResponse(self.request, "contracts/platform_terms.html", context, status=status)


def _entered(posted: QueryDict) -> Iterator[tuple[str, str]]:
    """What the buttons under the preview bring back."""
    for name, values in posted.lists():
        if name not in ("step", "csrfmiddlewaretoken", "seen"):
            yield from ((name, value) for value in values)


def _only_the_last(row: PlatformTerms) -> str:
    newest = terms.latest()
    return "" if newest == row else f"Version {newest.version} is the last one: change that."


@dataclass(frozen=True)
class Button:
    """What an object's page needs of an action whose page is its own."""

    name: str
    label: str
    permission: str
    available: Callable[[PlatformTerms], str]
    danger: bool = False


_ASK = Button("request-change", "Ask for other terms", terms.MAKER, _only_the_last)


@admin.register(PlatformTerms)
class PlatformTermsAdmin(ConsoleAdmin):
    """What a contract gets where it says nothing, in versions. Contracts keep those they were made with."""

    icon = "gavel"
    list_display = ("number", "state", "begins", "changed", "reason")
    list_display_links = ("number",)
    search_fields = ("version__exact", "id__exact")
    search_help_text = "The version, or the id."
    fields = (
        "number", "state", "begins", "reason", "asked_by", "agreed_by", "agreed", "shown_hash",
        "shown_prev_hash",
    )  # fmt: skip

    def get_object_actions(self, request: HttpRequest, obj: PlatformTerms) -> Any:
        return [_ASK]

    def action_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """The form, then what it would change, then the request: three steps under one address."""
        row = self.get_object(request, unquote(object_id))
        if row is None or name != _ASK.name:
            raise Http404
        if not self.has_view_permission(request, row) or not request.user.has_perm(_ASK.permission):
            raise PermissionDenied
        return _Asking(self, request, row).answer()

    @admin.display(description="Version")
    def number(self, obj: PlatformTerms) -> str:
        return str(obj)

    @admin.display(description="State")
    def state(self, obj: PlatformTerms) -> SafeString:
        now = clock.now()
        if obj.effective_at > now:
            return badge("scheduled")
        current = terms.version_at(now)
        return badge("in force", "good") if current == obj else badge("was in force", "plain")

    @admin.display(description="Begins")
    def begins(self, obj: PlatformTerms) -> SafeString:
        return instant(obj.effective_at)

    @admin.display(description="Changed")
    def changed(self, obj: PlatformTerms) -> str:
        before = PlatformTerms.objects.filter(version=obj.version - 1).first()
        return terms.in_words(*terms.compare(before, obj)) if before else "the first"

    @admin.display(description="Asked for by")
    def asked_by(self, obj: PlatformTerms) -> str:
        return obj.approval.maker_name if obj.approval else obj.made_by

    @admin.display(description="Agreed to by")
    def agreed_by(self, obj: PlatformTerms) -> str:
        return obj.approval.checker_name if obj.approval else NOTHING

    @admin.display(description="Agreed in")
    def agreed(self, obj: PlatformTerms) -> SafeString:
        return link(obj.approval)

    @admin.display(description="Hash")
    def shown_hash(self, obj: PlatformTerms) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.hash)

    @admin.display(description="Hash before it")
    def shown_prev_hash(self, obj: PlatformTerms) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.prev_hash) if obj.prev_hash else NOTHING


def _values(row: PlatformTerms, request: HttpRequest) -> SafeString:
    return format_html_join(
        "",
        "<h3>{}</h3>{}",
        (
            (title_of_section(section), fields_of(_of_all(section, values), Names(), ""))
            for section, values in row.sections.items()
        ),
    )


def _of_all(section: str, values: Json) -> Json:
    """Without what every contract says for itself."""
    return {name: value for name, value in values.items() if name not in PER_CONTRACT.get(section, ())}


def _differences(row: PlatformTerms, request: HttpRequest) -> SafeString:
    """Against the version that `?against=` names, else the one before."""
    asked = request.GET.get("against", "")
    other = int(asked) if asked.isdecimal() and len(asked) < 10 else row.version - 1
    base = PlatformTerms.objects.filter(version=other).first()
    if base is None:
        return SafeString("")
    before, after = terms.compare(base, row)
    form = format_html(
        '<form method="get" class="c-facts"><div><label for="against">Compared with version</label>'
        '<p><input type="number" id="against" name="against" min="1" value="{}"></p></div>'
        '<p><button class="c-button" type="submit">Compare</button></p></form>',
        base.version,
    )
    return form + _compared(before, after, base.version, row.version)


def _compared(before: Json, after: Json, old: int, new: int) -> SafeString:
    rows = []
    for path in {**before, **after}:
        section, *steps = path.strip("/").split("/")
        key = steps[-1] if steps else section
        said = " ".join([title_of_section(section), *map(in_words, steps)])
        rows.append((said, *(phrase(key, side.get(path), Names(), "") for side in (before, after))))
    return table(["Term", f"Version {old}", f"Version {new}"], rows, empty="They say the same.")


register_panel("contracts.platformterms", title="Values", render=_values, order=1)
register_panel("contracts.platformterms", title="What it changed", render=_differences, order=2)
register_panel(
    "contracts.platformterms",
    title="Asked for on top of it",
    render=lambda row, request: approvals_of("contracts.platformterms", row.pk),
    order=3,
)

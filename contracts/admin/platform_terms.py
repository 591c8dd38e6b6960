"""The platform's terms in the console: each version, what it changed, and the form that asks for the next."""

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce import clock
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import badge, instant, link
from commerce.console.panels import approvals_of, readable
from commerce.console.registry import register_panel
from contracts.models import PlatformTerms
from contracts.services import terms


@admin.register(PlatformTerms)
class PlatformTermsAdmin(ConsoleAdmin):
    """What a contract gets where it says nothing, in versions. Contracts keep those they were made with."""

    icon = "gavel"
    list_display = ("number", "state", "begins", "changed", "reason")
    list_display_links = ("number",)
    search_fields = ("version__exact", "id__exact")
    search_help_text = "The version, or the id."
    fields = (
        "number", "state", "begins", "reason", "made_by", "approved_by", "agreed", "shown_hash", "prev_hash",
    )  # fmt: skip

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

    @admin.display(description="Agreed in")
    def agreed(self, obj: PlatformTerms) -> SafeString:
        return link(obj.approval)

    @admin.display(description="Hash")
    def shown_hash(self, obj: PlatformTerms) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', obj.hash)


def _values(row: PlatformTerms, request: HttpRequest) -> SafeString:
    return table(
        ["Section", "Values"],
        [(section.capitalize(), readable(values)) for section, values in row.sections.items()],
    )


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
    rows = [
        (path.strip("/").replace("/", " ").replace("_", " "), terms.shown(before.get(path)),
         terms.shown(after.get(path)))
        for path in {**before, **after}
    ]  # fmt: skip
    return form + table(
        ["Term", f"Version {base.version}", f"Version {row.version}"], rows, empty="They say the same."
    )


register_panel("contracts.platformterms", title="Values", render=_values, order=1)
register_panel("contracts.platformterms", title="What it changed", render=_differences, order=2)
register_panel(
    "contracts.platformterms",
    title="Asked for on top of it",
    render=lambda row, request: approvals_of("contracts.platformterms", row.pk),
    order=3,
)

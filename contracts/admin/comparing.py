"""Two views of one contract side by side: two versions or two instants of knowledge, over all of its time."""

from collections.abc import Sequence
from datetime import UTC, datetime

from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce.console.as_of import within_calendar
from commerce.console.charts import nothing
from commerce.console.format import instant
from contracts.admin.instants import edits_of
from contracts.admin.titles import title_of
from contracts.admin.words import Names, changed, names_of, shown_changes
from contracts.models import Contract
from contracts.rules import fold
from contracts.rules.fold import Edit, Instant
from contracts.rules.state import ContractState, evolve

STRETCHES_SHOWN = 24
_FORM = """<form method="get" class="c-facts"><input type="hidden" name="tab" value="compare">
<div><label for="from">What was known after</label><p><select id="from" name="from">{}</select></p></div>
<div><label for="to">with what was known after</label><p><select id="to" name="to">{}</select></p></div>
<p><button class="c-button" type="submit">Compare</button></p></form>
<form method="get" class="c-facts"><input type="hidden" name="tab" value="compare">
<div><label for="diff_from">Or known at (UTC)</label>
<p><input type="datetime-local" step="1" id="diff_from" name="diff_from" value="{}"></p></div>
<div><label for="diff_to">with known at (UTC)</label>
<p><input type="datetime-local" step="1" id="diff_to" name="diff_to" value="{}"></p></div>
<p><button class="c-button" type="submit">Compare</button></p></form>"""


def comparison(contract: Contract, request: HttpRequest) -> SafeString:
    """The form, and for each stretch of valid time what one says and the other does not."""
    edits = edits_of(contract)
    earlier, later = _ends(request, edits)
    form = format_html(
        _FORM,
        _versions(edits, earlier),
        _versions(edits, later),
        f"{earlier:%Y-%m-%dT%H:%M:%S}" if "diff_from" in request.GET else "",
        f"{later:%Y-%m-%dT%H:%M:%S}" if "diff_to" in request.GET else "",
    )
    found = stretches(edits, earlier, later)
    if not found:
        return format_html("{}{}", form, nothing("Both say the same, at every instant."))
    names = names_of(*(state for _, _, *states in found for state in states))
    shown = format_html_join("", "<h3>{}</h3>{}", (_stretch(*one, names) for one in found[:STRETCHES_SHOWN]))
    more = len(found) - STRETCHES_SHOWN
    rest = format_html('<p class="c-help">And {} stretches more.</p>', more) if more > 0 else ""
    said = format_html(
        '<p class="c-about">Known {} against known {}. Each part says from when to when the two differ.</p>',
        instant(earlier),
        instant(later),
    )
    return format_html("{}{}{}{}", form, said, shown, rest)


def stretches(
    edits: Sequence[Edit], earlier: datetime, later: datetime
) -> list[tuple[datetime, datetime | None, ContractState, ContractState]]:
    """[from, to) of valid time in which what was known at the two instants differs, with both states."""
    return differing(fold.timeline(edits, earlier), fold.timeline(edits, later))


def differing(
    before: Sequence[Instant], after: Sequence[Instant]
) -> list[tuple[datetime, datetime | None, ContractState, ContractState]]:
    """The same of two timelines."""
    moments = sorted({step.at for step in (*before, *after)})
    ends: list[datetime | None] = [*moments[1:], None]
    found: list[tuple[datetime, datetime | None, ContractState, ContractState]] = []
    for at, until in zip(moments, ends, strict=True):
        old, new = (evolve(fold.at_instant(steps, at), version=0) for steps in (before, after))
        if old == new:
            continue
        if found and found[-1][1] == at and found[-1][2:] == (old, new):
            at = found.pop()[0]
        found.append((at, until, old, new))
    return found


def _stretch(
    start: datetime, end: datetime | None, old: ContractState, new: ContractState, names: Names
) -> tuple[SafeString, SafeString]:
    until = format_html("until {}", instant(end)) if end else "on"
    title = format_html("From {} {}", instant(start), until)
    if not old.exists or not new.exists:
        return title, nothing("It was not known." if new.exists else "It is not known.")
    return title, shown_changes(changed(old, new, names))


def _ends(request: HttpRequest, edits: Sequence[Edit]) -> tuple[datetime, datetime]:
    """The two instants of knowledge: those asked for, else the last edit against the one before it."""
    recorded = {str(edit.seq): edit.recorded_at for edit in edits}
    last = edits[-1].recorded_at
    before = edits[-2].recorded_at if len(edits) > 1 else last
    return (
        _read(request, "diff_from") or recorded.get(request.GET.get("from", ""), before),
        _read(request, "diff_to") or recorded.get(request.GET.get("to", ""), last),
    )


def _read(request: HttpRequest, name: str) -> datetime | None:
    try:
        at = within_calendar(datetime.fromisoformat(request.GET.get(name, "")))
    except ValueError:
        return None
    return at.astimezone(UTC) if at else None


def _versions(edits: Sequence[Edit], chosen: datetime) -> SafeString:
    return format_html_join(
        "",
        '<option value="{}"{}>#{} {}</option>',
        (
            (
                edit.seq,
                SafeString(" selected") if edit.recorded_at == chosen else "",
                edit.seq,
                title_of(edit.operation, edit.payload),
            )
            for edit in reversed(edits)
        ),
    )

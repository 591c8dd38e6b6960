"""Pages at two instants: `?valid_at=` asks what was so in business time, `known_at=` what was known then."""

from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce.console.format import instant

_FORM = """<form method="get" class="c-facts"><div><label for="valid_at">Valid at (UTC)</label>
<p><input type="datetime-local" step="1" id="valid_at" name="valid_at" value="{}"></p></div>
<div><label for="known_at">As known at (UTC)</label>
<p><input type="datetime-local" step="1" id="known_at" name="known_at" value="{}"></p></div>
{}<p><button class="c-button" type="submit">Show</button></p></form>"""
_BANNER = """<p class="c-notice c-warn" role="status">{} as of {}, as known {}. Nothing can be done here.
<a class="c-link" href="{}">Back to now</a></p>"""


# Beyond these a page could not reckon: a day more or another offset would leave the calendar.
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


def within_calendar(at: datetime) -> datetime | None:
    """The instant in UTC, which it is in when it has no offset; None in years that no page can show."""
    try:
        at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except OverflowError:
        return None
    return at if _EARLIEST <= at < _LATEST else None


def asked_instants(request: HttpRequest) -> dict[str, datetime]:
    """`valid_at` and `known_at` of the address, UTC; what cannot be read is left out."""
    found = {}
    for name in ("valid_at", "known_at"):
        try:
            at = within_calendar(datetime.fromisoformat(request.GET.get(name, "")))
        except ValueError:
            continue
        if at is not None:
            found[name] = at
    return found


def as_of_form(asked: dict[str, datetime], more: Any = "") -> SafeString:
    """The form of the two instants, and `more` fields in it."""
    return format_html(_FORM, *(_local(asked.get(name)) for name in ("valid_at", "known_at")), more)


def as_of_banner(what: str, asked: dict[str, datetime], back: str) -> SafeString:
    """Says that a page shows another instant than now; nothing when it does not."""
    if not asked:
        return SafeString("")
    valid, known = (instant(asked[n]) if n in asked else "now" for n in ("valid_at", "known_at"))
    return format_html(_BANNER, what, valid, known, back)


def _local(at: datetime | None) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}" if at else ""

"""Tables and pictures drawn on the server: no script, themed by the stylesheet, readable without colour."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce.console import format
from commerce.money import Money

AGES = ("not due yet", "0–30 days", "31–60 days", "61–90 days", "over 90 days")
_TONES = ("good", "busy", "warn", "bad", "worst")
_SCROLLING = """<div class="c-scroll"><table class="c-table">
<thead><tr>{}</tr></thead><tbody>{}</tbody>{}</table></div>"""
_PICTURE = """<svg class="c-chart" viewBox="0 0 {} {}" role="img" aria-label="Cash in and out per day">
<line x1="0" x2="{}" y1="{}" y2="{}"/>{}{}</svg>
<p class="c-legend"><span><i class="c-in"></i>in {}</span><span><i class="c-out"></i>out {}</span></p>"""
_WIDTH, _HEIGHT, _MARGIN = 560, 150, 18


def nothing(sentence: str) -> SafeString:
    """What a block says when it has nothing to show: what would be here."""
    return format_html('<p class="c-nothing">{}</p>', sentence)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    empty: str = "Nothing here yet.",
    total: Sequence[Any] = (),
) -> SafeString:
    """An HTML table. A header that begins with ">" makes its column right-aligned."""
    rows = list(rows)
    if not rows:
        return nothing(empty)
    sides = ["c-right" if header.startswith(">") else "" for header in headers]
    words = [header.lstrip(">") for header in headers]
    head = format_html_join("", '<th scope="col" class="{}">{}</th>', _pair(sides, words))
    body = format_html_join("", "<tr>{}</tr>", ((_cells(sides, row),) for row in rows))
    foot = format_html("<tfoot><tr>{}</tr></tfoot>", _cells(sides, total)) if total else ""
    return format_html(_SCROLLING, head, body, foot)


def facts(pairs: Mapping[str, Any]) -> SafeString:
    """Names and values in a row: the strip on top of an object's page."""
    items = format_html_join("", "<div><dt>{}</dt><dd>{}</dd></div>", pairs.items())
    return format_html('<dl class="c-facts">{}</dl>', items)


def ageing(buckets: Mapping[str, Sequence[int]], *, empty: str = "Nothing is outstanding.") -> SafeString:
    """Minor units per currency in the classes of `AGES`, days past due, as bars and figures."""
    owed = {currency: amounts for currency, amounts in sorted(buckets.items()) if any(amounts)}
    if not owed:
        return nothing(empty)
    shares = ((_shares(amounts),) for amounts in owed.values())
    bars = format_html_join("", '<div class="c-shares" aria-hidden="true">{}</div>', shares)
    rows = [
        [age, *(format.money(amounts[index], currency) for currency, amounts in owed.items())]
        for index, age in enumerate(AGES)
    ]
    total = ["Total", *(format.money(sum(amounts), currency) for currency, amounts in owed.items())]
    return format_html("{}{}", bars, table(["Past due", *(f">{name}" for name in owed)], rows, total=total))


def cash_flow(days: Sequence[tuple[date, int, int]], currency: str) -> SafeString:
    """Cash in and out per day, as paired bars; every bar says its day and amount in its title."""
    highest = max((max(day[1:]) for day in days), default=0)
    if not highest:
        return nothing(f"No {currency} came in or went out in these {len(days)} days.")
    step = _WIDTH / len(days)
    bars = format_html_join(
        "",
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="2"><title>{}</title></rect>',
        (
            bar
            for index, (day, into, out) in enumerate(days)
            for bar in (
                _bar("c-in", index * step + step * 0.14, step, into, highest, day, currency, "in"),
                _bar("c-out", index * step + step * 0.52, step, out, highest, day, currency, "out"),
            )
        ),
    )
    labels = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (f"{index * step + step / 2:.1f}", _HEIGHT - 4, f"{day.day} {day:%b}")
            for index, (day, _, _) in enumerate(days)
            if index % 2 == len(days) % 2
        ),
    )
    total_in = format.money(sum(into for _, into, _ in days), currency)
    total_out = format.money(sum(out for _, _, out in days), currency)
    return format_html(
        _PICTURE,
        _WIDTH,
        _HEIGHT,
        _WIDTH,
        _HEIGHT - _MARGIN,
        _HEIGHT - _MARGIN,
        bars,
        labels,
        total_in,
        total_out,
    )


def _bar(
    kind: str, x: float, step: float, minor: int, highest: int, day: date, currency: str, word: str
) -> tuple[Any, ...]:
    height = minor * (_HEIGHT - _MARGIN - 6) / highest
    title = f"{day.isoformat()} {word}: {Money(minor, currency)}"
    return kind, f"{x:.1f}", f"{_HEIGHT - _MARGIN - height:.1f}", f"{step * 0.34:.1f}", f"{height:.1f}", title


def _shares(amounts: Sequence[int]) -> SafeString:
    whole = sum(amounts)
    return format_html_join(
        "",
        '<span class="c-{}" style="width:{}%"></span>',
        ((tone, f"{100 * minor / whole:.2f}") for tone, minor in zip(_TONES, amounts, strict=True) if minor),
    )


def _cells(sides: Sequence[str], row: Sequence[Any]) -> SafeString:
    return format_html_join("", '<td class="{}">{}</td>', _pair(sides, row))


def _pair(sides: Sequence[str], values: Sequence[Any]) -> Iterable[tuple[str, Any]]:
    return zip(sides, values, strict=True)

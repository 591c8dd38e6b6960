"""Where apps hang their pieces into the console, so that the console knows none of them.

Register from the app's `admin.py`. Callables are asked on every page view and must be bounded in
time: one query each, on an index.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString


@dataclass(frozen=True)
class CardValue:
    """What a card shows: how many, since when, and what is at stake in minor units per currency."""

    count: int
    oldest: datetime | None = None
    value: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One queue on the home page. `oldest` is business time unless `system_time`.

    `permission` hides the card from those who could not open its list.
    """

    key: str
    title: str
    url: str | Callable[[], str]
    load: Callable[[HttpRequest], CardValue]
    empty: str = "Nothing waits here."
    permission: str = ""
    order: int = 10
    system_time: bool = False

    @property
    def href(self) -> str:
        return self.url() if callable(self.url) else self.url


@dataclass(frozen=True)
class Section:
    """A block below the queues. `half` puts two side by side."""

    key: str
    title: str
    render: Callable[[HttpRequest], SafeString]
    permission: str = ""
    order: int = 10
    half: bool = True


@dataclass(frozen=True)
class Panel:
    """A block on an object's page; none when it renders to nothing at all.

    On a page with tabs it is on the tab `tab`, else on one of its own title.
    """

    title: str
    render: Callable[[Any, HttpRequest], SafeString]
    order: int = 10
    permission: str = ""
    tab: str = ""


@dataclass(frozen=True)
class TimelineRow:
    """One thing that happened to an object. `kind` groups rows and picks the dot's colour."""

    at: datetime
    kind: str
    title: str
    detail: str = ""
    actor: str = ""
    url: str = ""


@dataclass(frozen=True)
class Hit:
    """One search result; `kind` is the word beside it."""

    label: str
    url: str
    kind: str


Timeline = Callable[[Any], Iterable[TimelineRow]]
Search = Callable[[str], Iterable[Hit]]

_cards: dict[str, Card] = {}
_sections: dict[str, Section] = {}
_panels: dict[str, list[Panel]] = defaultdict(list)
_timelines: dict[str, list[Timeline]] = defaultdict(list)
_searches: list[tuple[str, Search]] = []


def register_card(card: Card) -> None:
    _cards[card.key] = card


def register_section(section: Section) -> None:
    _sections[section.key] = section


def register_panel(
    model: str,
    *,
    title: str,
    render: Callable[[Any, HttpRequest], SafeString],
    order: int = 10,
    permission: str = "",
    tab: str = "",
) -> None:
    """Put a block on the page of `model` ("contracts.contract")."""
    _panels[model.lower()].append(Panel(title, render, order, permission, tab))


def register_timeline(model: str, rows: Timeline) -> None:
    """Feed the timeline on the page of `model`; all feeds are merged, newest first."""
    _timelines[model.lower()].append(rows)


def register_search(search: Search, permission: str = "") -> None:
    """Answer Ctrl-K: exact or prefix look-ups on indexed columns, at most 20 hits."""
    _searches.append((permission, search))


def cards() -> list[Card]:
    return sorted(_cards.values(), key=lambda card: (card.order, card.key))


def sections() -> list[Section]:
    return sorted(_sections.values(), key=lambda section: (section.order, section.key))


def panels(model: str) -> list[Panel]:
    return sorted(_panels[model.lower()], key=lambda panel: (panel.order, panel.title))


def timelines(model: str) -> list[Timeline]:
    return _timelines[model.lower()]


def searches() -> list[tuple[str, Search]]:
    return _searches

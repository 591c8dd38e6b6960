"""The home page: a queue, not a chart wall. What needs a person comes first, then the state of things."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils import timezone

from commerce import clock
from commerce.console import format, registry
from commerce.console.registry import Card


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The template's context: the cards and sections this person may see."""
    now = clock.now()
    cards = [_shown(card, request, now) for card in registry.cards() if _may(request, card.permission)]
    sections = [
        {"title": section.title, "body": section.render(request), "half": section.half}
        for section in registry.sections()
        if _may(request, section.permission)
    ]
    return {**context, "title": "Home", "cards": cards, "sections": sections, "as_of": now}


def _may(request: HttpRequest, permission: str) -> bool:
    return not permission or request.user.has_perm(permission)


def _shown(card: Card, request: HttpRequest, now: datetime) -> dict[str, Any]:
    value = card.load(request)
    reference = timezone.now() if card.system_time else now
    return {
        "title": card.title,
        "url": card.href,
        "count": value.count,
        "empty": card.empty,
        "age": format.age((reference - value.oldest).total_seconds()) if value.oldest else "",
        "amounts": [
            format.money(minor, currency) for currency, minor in sorted(value.value.items()) if minor
        ],
    }

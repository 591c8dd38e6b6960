"""The format helpers as template filters: `{{ state|badge }}`, `{{ at|instant }}`, `{{ n|count }}`."""

from typing import Any

from django import template
from django.utils.safestring import SafeString

from commerce.console import format
from commerce.money import Money

register = template.Library()
register.filter("badge", format.badge)
register.filter("instant", format.instant)
register.filter("link", format.link)


@register.filter
def money(value: Money | None) -> SafeString:
    return format.money(value.minor, value.currency) if value else format.NOTHING


@register.filter
def minor(value: int | None, currency: str) -> SafeString:
    """`{{ row.amount_minor|minor:row.currency }}`"""
    return format.money(value, currency)


@register.filter
def count(value: Any) -> str:
    return f"{value:,}"

"""Links to the page that asks for an export, for whoever may; any page of the console can carry one."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce.console.exports import REQUEST, Source, source_named


def may_export(request: HttpRequest, source: Source) -> bool:
    return request.user.has_perm(REQUEST) and request.user.has_perm(source.permission)


def export_url(source: str, parameters: Mapping[str, Any]) -> str:
    given = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"{reverse('admin:console_export_new', args=[source])}?{urlencode(given)}".removesuffix("?")


def export_link(request: HttpRequest, export: str, **parameters: Any) -> SafeString:
    """A button with these parameters filled in; nothing for who may not export such rows."""
    found = source_named(export)
    if not may_export(request, found):
        return SafeString("")
    return format_html(
        '<a class="c-button" href="{}">Export: {}</a>', export_url(export, parameters), found.label.lower()
    )

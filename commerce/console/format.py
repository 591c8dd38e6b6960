"""How the console writes things: money, states, instants and links, as safe HTML."""

import json
from datetime import datetime
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from commerce.money import Money

KEY_SHOWN = 16
IN_A_LIST = 120
NOTHING = SafeString('<span class="c-none">—</span>')
_TONES = {
    "good": """active approved available collected completed confirmed current done matched paid paid_out
        posted published released resolved settled succeeded verified""",
    "busy": """claimed disbursing due funded in_progress in_transit invoiced issued open pending
        pending_activation pending_signature planned processing releasable requested running scheduled
        seasoning sent snoozed submitted verifying waiting""",
    "warn": """delinquent expired held in_grace needs_approval on_hold overdue parked partially_paid past_due
        requires_action retrying returned review suspended unknown unmatched""",
    "bad": """cancelled clawed_back collections disputed discarded failed rejected revoked reversed terminated
        uncollectible void voided written_off""",
}
_TONE_OF = {state: tone for tone, states in _TONES.items() for state in states.split()}


def number(count: int, *, most: int | None = None) -> SafeString:
    """ "1,234" in tabular figures, right-aligned in lists; "10,000+" when `most` is as far as was counted."""
    more = "+" if most is not None and count >= most else ""
    return format_html('<span class="c-num">{}{}</span>', f"{count:,}", more)


def money(minor: int | None, currency: str) -> SafeString:
    """ "1,234.56 USD" in tabular figures, right-aligned in lists; negative amounts keep their sign."""
    if minor is None:
        return NOTHING
    figures, _, code = str(Money(minor, currency)).rpartition(" ")
    sign = " c-negative" if minor < 0 else ""
    return format_html(
        '<span class="c-money{}">{} <span class="c-currency">{}</span></span>',
        sign,
        figures.replace("-", "−"),
        code,
    )


def badge(state: str | None, tone: str = "") -> SafeString:
    """A state as a word with a colour. `tone` (good, busy, warn, bad, plain) overrides the state's own."""
    if not state:
        return NOTHING
    word = str(state).replace("_", " ")
    return format_html(
        '<span class="c-badge c-{}">{}</span>', tone or _TONE_OF.get(str(state), "plain"), word
    )


def instant(at: datetime | None) -> SafeString:
    """ "1 Mar 2027 00:00:00", UTC, with the full instant as title."""
    if at is None:
        return NOTHING
    return format_html(
        '<time class="c-instant" datetime="{}" title="{}">{} <span class="c-clock">{}</span></time>',
        at.isoformat(),
        at.isoformat(),
        f"{at.day} {at:%b %Y}",
        f"{at:%H:%M:%S}",
    )


def link(obj: Model | None, text: Any = None) -> SafeString:
    """The object's admin page under its name; the bare name when it has no page."""
    if obj is None:
        return NOTHING
    url = admin_url(obj)
    return (
        format_html('<a class="c-link" href="{}">{}</a>', url, text or obj) if url else format_html("{}", obj)
    )


def admin_url(obj: Model) -> str:
    """The address of the object's page, or "" when its model is not in the console."""
    meta = obj._meta
    try:
        return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[obj.pk])
    except NoReverseMatch:
        return ""


def wide(sentence: str) -> SafeString:
    """A sentence that has a row of the page to itself."""
    return format_html('<span class="c-wide">{}</span>', sentence) if sentence else NOTHING


def in_short(sentence: str) -> SafeString:
    """How a long sentence begins, for lists."""
    short = Truncator(sentence).chars(IN_A_LIST)
    return format_html('<span class="c-said">{}</span>', short) if short else NOTHING


def age(seconds: float) -> str:
    """ "3 d", "4 h", "5 min" or "6 s": the largest unit, whole."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def subject_link(label: str, pk: Any, text: str = "") -> SafeString:
    """A link from a model's label ("billing.invoice") and a key, without reading the row."""
    word = text or subject_name(label, pk)
    try:
        url = reverse(f"admin:{label.lower().replace('.', '_', 1)}_change", args=[pk])
    except NoReverseMatch:
        return format_html("{}", word)
    return format_html('<a class="c-link" href="{}">{}</a>', url, word)


def subject_name(label: str, pk: Any) -> SafeString:
    """ "pay-in …1f3a9c04": what it is and how its key ends; the whole key is the title."""
    try:
        word = str(apps.get_model(label)._meta.verbose_name)
    except (LookupError, ValueError):
        word = label.replace("_", " ")
    key = str(pk)
    return format_html('{} <span class="c-mono" title="{}">{}</span>', word, key, shortened(key))


def shortened(key: str) -> str:
    """Only how a long key ends: the beginnings of ours are their time and look alike."""
    return key if len(key) <= KEY_SHOWN else f"…{key[-8:]}"


def subject(label: str, pk: Any) -> SafeString:
    """A link under the subject's own name; reads the row, so for an object's page, not for lists."""
    try:
        found = apps.get_model(label)._default_manager.filter(pk=pk).first()
    except (LookupError, ValueError, ValidationError):
        found = None
    return link(found) if found else subject_link(label, pk)


def aggregate_label(kind: str) -> str:
    """The label of the model whose aggregate type this is; the type itself when there is none."""
    models = (model for model in apps.get_models() if getattr(model, "aggregate_type", "") == kind)
    return next((model._meta.label_lower for model in models), kind)


def shown_json(value: Any) -> SafeString:
    """JSON, indented; a word when there is none."""
    if not value:
        return SafeString('<span class="c-none">none</span>')
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=str)
    return format_html('<pre class="c-mono">{}</pre>', text)

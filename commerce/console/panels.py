"""Blocks that pages of several applications show."""

from typing import Any

from django.utils.safestring import SafeString

from commerce.console.charts import facts, table
from commerce.console.format import badge, instant, link, money, shown_json
from commerce.providers.models import ProviderEvent

MESSAGES_SHOWN = 20


def in_words(found: dict[str, Any]) -> SafeString:
    """Findings as names and values, amounts as money; JSON when they are nested."""
    if not found or any(isinstance(value, dict | list) for value in found.values()):
        return shown_json(found)
    currency = found.get("currency", "")
    return facts(
        {
            name.removesuffix("_minor").replace("_", " "): money(value, currency)
            if currency and name.endswith("_minor") and isinstance(value, int)
            else value
            for name, value in found.items()
            if not (name == "currency" or value in ("", None))
        }
    )


def provider_messages(provider: str, object_id: str) -> SafeString:
    """What a provider has sent us about one of its objects, newest first."""
    found = ProviderEvent.objects.filter(provider=provider, object_id=object_id).order_by("-id")
    rows = [
        (
            link(message, f"{message.topic}.{message.event}"),
            badge(message.state, "good" if message.state == "received" else "plain"),
            instant(message.received_at),
        )
        for message in found[:MESSAGES_SHOWN]
    ]
    return table(["Message", "State", "Received"], rows, empty="Nothing has come in; polling finds it too.")

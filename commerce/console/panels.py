"""Blocks that pages of several applications show."""

from typing import Any

from django.utils.safestring import SafeString

from commerce.console.charts import facts, table
from commerce.console.format import NOTHING, badge, instant, link, money, shown_json
from commerce.console.models import Approval
from commerce.providers.models import ProviderEvent

MESSAGES_SHOWN = 20
APPROVALS_SHOWN = 20


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


def readable(value: Any, name: str = "", currency: str = "") -> Any:
    """JSON as a person reads it: names and values, lists of objects as tables, minor units as money."""
    if isinstance(value, dict):
        currency = value.get("currency", currency)
        if value.keys() == {"amount_minor", "currency"}:
            return money(value["amount_minor"], currency)
        rows = [(_in_words(key), readable(inner, key, currency)) for key, inner in value.items()]
        return table(["Name", "Value"], rows, empty="None.")
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        names = list(dict.fromkeys(key for row in value for key in row))
        return table(
            [_in_words(key) for key in names],
            [[readable(row.get(key), key, row.get("currency", currency)) for key in names] for row in value],
        )
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_minor") and currency:
        return money(value, currency)
    return NOTHING if value in ("", None) else value


def _in_words(name: str) -> str:
    return name.removesuffix("_minor").replace("_", " ")


def approvals_of(label: str, pk: Any) -> SafeString:
    """What was requested about a subject ("ledger.ledgertransaction" and its key), newest first; nothing
    when nothing was."""
    found = Approval.objects.filter(subject_type=label.lower(), subject_id=str(pk)).order_by("-id")
    rows = [
        (
            link(approval, approval.title),
            badge(approval.status),
            approval.reason,
            approval.maker_name,
            instant(approval.requested_at),
            approval.checker_name or NOTHING,
            instant(approval.decided_at),
        )
        for approval in found[:APPROVALS_SHOWN]
    ]
    if not rows:
        return SafeString()
    return table(["Approval", "State", "Why", "Requested by", "Requested", "Decided by", "Decided"], rows)


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

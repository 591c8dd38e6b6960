"""System checks of the webhooks' configuration."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register


@register()
def allowed_networks(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    networks = settings.WEBHOOK_ALLOWED_NETWORKS
    unreadable = [text for text in networks if not _is_network(text)]
    found: list[CheckMessage] = []
    if unreadable:
        found.append(
            Error(
                f"WEBHOOK_ALLOWED_NETWORKS holds what is no network: {', '.join(unreadable)}.",
                hint="Write networks as 192.0.2.0/24, separated by commas.",
                id="webhooks.E001",
            )
        )
    if networks and settings.PRODUCTION:
        found.append(
            Error(
                "WEBHOOK_ALLOWED_NETWORKS opens networks of our own to other organizations' webhooks.",
                hint="Unset it in production.",
                id="webhooks.E002",
            )
        )
    return found


@register()
def log_days(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    if settings.WEBHOOK_LOG_DAYS > 30:
        return []
    return [Error("WEBHOOK_LOG_DAYS must be 31 or more.", id="webhooks.E003")]


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True

"""Numbered system checks: each says what is wrong with the configuration and what to do about it."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

ENVIRONMENTS = ("development", "test", "staging", "production")


@register()
def environment(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.ENVIRONMENT not in ENVIRONMENTS:
        found.append(
            Error(
                f"ENVIRONMENT is {settings.ENVIRONMENT!r}.",
                hint=f"Set it to one of: {', '.join(ENVIRONMENTS)}.",
                id="commerce.E001",
            )
        )
    if settings.PRODUCTION and len(settings.SECRET_KEY) < 50:
        found.append(
            Error("SECRET_KEY is missing or short.", hint="Set 50 random characters.", id="commerce.E002")
        )
    if settings.PRODUCTION and not settings.ALLOWED_HOSTS:
        found.append(
            Error("ALLOWED_HOSTS is empty.", hint="Name the hosts we answer for.", id="commerce.E003")
        )
    if settings.PRODUCTION and settings.CLOCK_FILE:
        found.append(Error("CLOCK_FILE gives production a test clock.", hint="Unset it.", id="commerce.E004"))
    if settings.PRODUCTION and settings.CRASH_AT:
        found.append(Error("CRASH_AT would kill a process.", hint="Unset it.", id="commerce.E005"))
    if settings.CLOCK_FILE and not Path(settings.CLOCK_FILE).parent.is_dir():
        found.append(
            Error(
                f"The folder of CLOCK_FILE ({settings.CLOCK_FILE}) does not exist.",
                hint="Create it, or unset CLOCK_FILE to use real time.",
                id="commerce.E006",
            )
        )
    if settings.TICK_SECONDS <= 0 or settings.POLL_SECONDS <= 0:
        found.append(
            Error(
                "TICK_SECONDS and POLL_SECONDS must be more than 0.",
                hint="Remove them to use the defaults, 2 and 60.",
                id="commerce.E007",
            )
        )
    if settings.SEASONING_DAYS < 0 or settings.PAYOUT_APPROVAL_LIMIT_MINOR < 0:
        found.append(
            Error(
                "SEASONING_DAYS and PAYOUT_APPROVAL_LIMIT_MINOR may not be negative.",
                hint="Remove them to use the defaults.",
                id="commerce.E008",
            )
        )
    return found


@register()
def providers(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for number, name in enumerate(("MODERN_TREASURY_BASE_URL", "OPENMETER_BASE_URL", "PUBLIC_URL")):
        url = urlsplit(getattr(settings, name))
        if url.scheme not in ("http", "https") or not url.hostname:
            found.append(
                Error(
                    f"{name} is not an http(s) address: {getattr(settings, name)!r}.",
                    hint="Give scheme and host, for example https://commerce.example.",
                    id=f"commerce.E01{number}",
                )
            )
        elif settings.PRODUCTION and url.scheme != "https" and not _is_private(url.hostname):
            found.append(Error(f"{name} is not encrypted.", hint="Use https.", id=f"commerce.E02{number}"))
    keys = {
        "MODERN_TREASURY_ORGANIZATION_ID": settings.MODERN_TREASURY_ORGANIZATION_ID,
        "MODERN_TREASURY_API_KEY": settings.MODERN_TREASURY_API_KEY,
        "MODERN_TREASURY_WEBHOOK_KEY": settings.MODERN_TREASURY_WEBHOOK_KEYS,
        "MODERN_TREASURY_INTERNAL_ACCOUNT_ID": settings.MODERN_TREASURY_INTERNAL_ACCOUNT_ID,
        "OPENMETER_TOKEN": settings.OPENMETER_TOKEN,
        "OPENMETER_WEBHOOK_SECRET": settings.OPENMETER_WEBHOOK_SECRETS,
    }
    missing = [name for name, value in keys.items() if not value]
    if missing and settings.PRODUCTION:
        found.append(
            Error(
                f"Provider settings are missing: {', '.join(missing)}.",
                hint="Take them from the providers' dashboards; .env.example says where.",
                id="commerce.E030",
            )
        )
    return found


@register()
def event_types(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """An event that a state machine emits must have a handler or be declared external."""
    from django.apps import apps
    from django_fsm import FSMFieldMixin

    from commerce.outbox import registry

    found: list[CheckMessage] = []
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if not isinstance(field, FSMFieldMixin):
                continue
            for transition in field.get_all_transitions(model):
                event = transition.custom.get("event")
                if event and not registry.is_known(event):
                    found.append(
                        Error(
                            f"{model._meta.label}.{transition.name} emits {event}, which nobody handles.",
                            hint="Write a handler with @on, or declare it with external().",
                            id="commerce.E040",
                        )
                    )
    return found


@register(deploy=True)
def deployment(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    if settings.PRODUCTION or settings.ENVIRONMENT == "staging":
        return []
    return [Warning("This is not a production configuration.", hint="Set ENVIRONMENT.", id="commerce.W001")]


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host

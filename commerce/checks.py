"""Numbered system checks: each says what is wrong with the configuration and what to do about it."""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from commerce import clock, roles

BROKERS = ("redis", "rediss", "redis+socket", "amqp", "amqps")
ENVIRONMENTS = ("development", "test", "staging", "production")
_WEBHOOK_SECRET = re.compile(r"whsec_(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@register()
def readable(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    return [
        Error(f"{name} cannot be read.", hint=f"Set it to {wanted}, or remove it.", id="commerce.E000")
        for name, wanted in settings.UNREADABLE.items()
    ]


@register()
def environment(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    return [
        Error(what, hint=hint, id=f"commerce.E{number:03}")
        for number, wrong, what, hint in (
            (
                1,
                settings.ENVIRONMENT not in ENVIRONMENTS,
                f"ENVIRONMENT is {settings.ENVIRONMENT!r}.",
                f"Set it to one of: {', '.join(ENVIRONMENTS)}.",
            ),
            (
                2,
                settings.PRODUCTION and len(settings.SECRET_KEY) < 50,
                "SECRET_KEY is missing or short.",
                "Set 50 random characters.",
            ),
            (
                3,
                settings.PRODUCTION and not settings.ALLOWED_HOSTS,
                "ALLOWED_HOSTS is empty.",
                "Name the hosts we answer for.",
            ),
            (
                4,
                settings.PRODUCTION and settings.CLOCK_FILE,
                "CLOCK_FILE gives production a test clock.",
                "Unset it.",
            ),
            (5, settings.PRODUCTION and settings.CRASH_AT, "CRASH_AT would kill a process.", "Unset it."),
            (
                6,
                settings.CLOCK_FILE and not clock.is_readable(),
                f"CLOCK_FILE ({settings.CLOCK_FILE}) is not in a folder that exists, or holds no instant.",
                "Name a file to be made in a folder that exists, or unset it to use real time.",
            ),
            (
                7,
                min(settings.TICK_SECONDS, settings.POLL_SECONDS) <= 0,
                "TICK_SECONDS and POLL_SECONDS must be more than 0.",
                "Remove them to use the defaults, 2 and 60.",
            ),
            (
                8,
                min(settings.OUTBOX_LEASE_SECONDS, settings.PROVIDER_TIMEOUT_SECONDS) <= 0,
                "OUTBOX_LEASE_SECONDS and PROVIDER_TIMEOUT_SECONDS must be more than 0.",
                "Remove them to use the defaults, 120 and 10.",
            ),
            (
                14,
                settings.PRODUCTION and 0 < settings.OUTBOX_LEASE_SECONDS <= settings.CELERY_TASK_TIME_LIMIT,
                "OUTBOX_LEASE_SECONDS ends while a worker may still be talking to a provider.",
                f"Give more than {settings.CELERY_TASK_TIME_LIMIT}, or remove it to use the default, 120.",
            ),
            (
                9,
                _scheme_and_host(settings.CELERY_BROKER_URL)[0] not in BROKERS,
                "BROKER_URL (or REDIS_URL) is not the address of a Redis or a RabbitMQ.",
                "Give redis://host:6379/0 or amqp://user:password@host:5672//, or unset it to use the"
                " embedded server.",
            ),
        )
        if wrong
    ]


@register()
def providers(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    names = ("MODERN_TREASURY_BASE_URL", "OPENMETER_BASE_URL", "PUBLIC_URL", "SANDBOX_URL")
    for number, name in enumerate(names):
        address = getattr(settings, name)
        if name == "SANDBOX_URL" and not address:
            continue
        scheme, host = _scheme_and_host(address)
        if scheme not in ("http", "https") or not host:
            found.append(
                Error(
                    f"{name} is not an http(s) address: {address!r}.",
                    hint="Give scheme and host, for example https://commerce.example.",
                    id=f"commerce.E01{number}",
                )
            )
        elif settings.PRODUCTION and scheme != "https" and not _is_private(host):
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
    if not all(_WEBHOOK_SECRET.fullmatch(secret) for secret in settings.OPENMETER_WEBHOOK_SECRETS):
        found.append(
            Error(
                "OPENMETER_WEBHOOK_SECRET is not whsec_ followed by base64.",
                hint="Copy the signing secret of the notification channel as it is shown.",
                id="commerce.E031",
            )
        )
    return found


@register()
def event_types(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """What is emitted or handled is in the catalogue, and every version of it can be read."""
    from commerce.outbox import catalog

    found: list[CheckMessage] = [
        Error(
            f"{who} {type_}, which is not in the catalogue of events.",
            hint="Declare it in the events.py of the application that it belongs to.",
            id="commerce.E040",
        )
        for who, type_ in (*_emitted(), *_handled())
        if catalog.event_type(type_) is None
    ]
    found += [
        Error(
            f"{type_} of version {version} cannot be read as version {version + 1}.",
            hint=f'Write the function with @upcast("{type_}", from_version={version}).',
            id="commerce.E041",
        )
        for type_, version in catalog.missing_upcasters()
    ]
    return found


def _emitted() -> Iterator[tuple[str, str]]:
    from django.apps import apps
    from django_fsm import FSMFieldMixin

    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, FSMFieldMixin):
                for transition in field.get_all_transitions(model):
                    if event := transition.custom.get("event"):
                        yield f"{model._meta.label}.{transition.name} emits", event


def _handled() -> Iterator[tuple[str, str]]:
    from commerce.outbox import registry

    for subscription in registry.subscriptions():
        type_, _, group = subscription.partition(" ")
        yield f"{group} handles", type_


@register()
def lanes(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """What nobody would ever drain."""
    from commerce.outbox import registry
    from commerce.outbox.tasks import queue_of

    declared = {queue.name for queue in settings.CELERY_TASK_QUEUES}
    return [
        Error(
            f"{group} is drained from the queue {queue_of(lane)}, which is not declared.",
            hint="Add the queue to the settings' table and a tick of the lane to beat's.",
            id="commerce.E042",
        )
        for group, lane in sorted(registry.group_lanes().items())
        if queue_of(lane) not in declared
    ]


@register(Tags.database)
def database_role(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Asked by `migrate` and by `check --database default`: the answer is in the database."""
    role = roles.application()
    if "default" not in (databases or ()) or not roles.owns(role):
        return []
    return [
        Warning(
            f"The application connects as {role}, who owns the tables: no right binds it.",
            hint="Set DATABASE_OWNER_URL to this address, DATABASE_URL to another user's, and migrate.",
            id="commerce.W002",
        )
    ]


@register(deploy=True)
def deployment(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    if settings.PRODUCTION or settings.ENVIRONMENT == "staging":
        return []
    return [Warning("This is not a production configuration.", hint="Set ENVIRONMENT.", id="commerce.W001")]


def _scheme_and_host(address: str) -> tuple[str, str]:
    try:
        url = urlsplit(address)
        _ = url.port  # raises when it is no number
    except ValueError:
        return "", ""
    return url.scheme, url.hostname or ""


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host

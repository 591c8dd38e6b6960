"""Issuing and revoking API keys."""

import logging
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from commerce.actor import Actor
from commerce.api.auth import hash_secret
from commerce.api.models import ApiKey, IdempotencyKey
from commerce.api.scopes import PLATFORM_ONLY, SCOPES
from commerce.errors import InvalidInput, StateConflict

log = logging.getLogger(__name__)

LIFETIME = timedelta(days=365)
ANSWERS_ARE_KEPT = timedelta(days=30)


@transaction.atomic
def issue_key(
    *,
    organization: Any,
    scopes: Sequence[str],
    label: str,
    actor: Actor,
    at: datetime,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Make a key and return it with its plain text, which nobody can read again.

    `expires_at` is system time, a year from now by default. InvalidInput names an unknown scope.
    """
    actor.require("api.issue_apikey")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InvalidInput(
            f"Unknown scopes: {', '.join(unknown)}." if unknown else "A key needs at least one scope.",
            pointer="/scopes",
            code="unknown_scope",
        )
    if PLATFORM_ONLY & set(scopes) and "platform" not in organization.roles:
        raise InvalidInput(
            f"Only the platform's own keys may have: {', '.join(sorted(PLATFORM_ONLY))}.",
            pointer="/scopes",
            code="scope_not_allowed",
        )
    expires_at = expires_at or timezone.now() + LIFETIME
    if expires_at <= timezone.now():
        raise InvalidInput("A key cannot expire in the past.", pointer="/expires_at")
    prefix = secrets.token_hex(5)
    secret = secrets.token_hex(32)
    key = ApiKey.objects.create(
        prefix=prefix,
        secret_sha256=hash_secret(secret),
        label=label,
        organization=organization,
        scopes=sorted(set(scopes)),
        live=settings.PRODUCTION,
        created_by=str(actor),
        expires_at=expires_at,
    )
    log.info("API key issued", extra={"key": key.shown, "by": str(actor), "scopes": key.scopes})
    return key, f"ck_{'live' if key.live else 'test'}_{prefix}_{secret}"


@transaction.atomic
def revoke_key(*, key: ApiKey, actor: Actor, at: datetime, reason: str = "") -> ApiKey:
    """End a key now. StateConflict when it was revoked before."""
    actor.require("api.revoke_apikey")
    row = ApiKey.objects.select_for_update().get(pk=key.pk)
    if row.revoked_at:
        raise StateConflict("The key was revoked before.")
    row.revoked_at = timezone.now()
    row.save(update_fields=["revoked_at"])
    log.info("API key revoked", extra={"key": row.shown, "by": str(actor), "reason": reason})
    return row


def forget_old_answers(*, limit: int = 5000) -> int:
    """Remove idempotency keys older than 30 days; after that a repeated key is a new request."""
    old = IdempotencyKey.objects.filter(created_at__lt=timezone.now() - ANSWERS_ARE_KEPT)
    return IdempotencyKey.objects.filter(pk__in=old.order_by("created_at").values("pk")[:limit]).delete()[0]

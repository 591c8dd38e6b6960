"""Who calls: `Authorization: Bearer ck_…` is looked up by prefix and compared by hash.

A request without a usable key is 401 whatever was wrong with it; a key without the scope is 403.
"""

import hashlib
import hmac
from datetime import timedelta
from typing import Any, cast

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from commerce.actor import Actor
from commerce.api.models import ApiKey
from commerce.errors import Unauthenticated
from commerce.logs import actor as current_actor
from commerce.logs import request_id

_SAFE = ("GET", "HEAD", "OPTIONS")
_USE_IS_NOTED_EVERY = timedelta(minutes=1)


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class ApiKeyAuthentication(BaseAuthentication):
    """Sets `request.user` to the Actor and `request.auth` to the ApiKey."""

    def authenticate(self, request: Request) -> tuple[Actor, ApiKey] | None:
        header = request.headers.get("Authorization", "")
        if not header:
            return None
        scheme, _, token = header.partition(" ")
        mark, mode, prefix, secret = (token.strip().split("_", 3) + [""] * 4)[:4]
        if scheme.lower() != "bearer" or mark != "ck" or not secret or "\x00" in prefix:
            raise Unauthenticated("Send an API key: Authorization: Bearer ck_….")
        key = ApiKey.objects.select_related("organization").filter(prefix=prefix).first()
        known = key.secret_sha256 if key else ""
        # The hash is computed and compared also for an unknown prefix, so that time tells nothing.
        matches = hmac.compare_digest(hash_secret(secret), known)
        if key is None or not matches or mode != ("live" if key.live else "test") or not key.is_usable:
            raise Unauthenticated("The API key is not known, has expired or was revoked.")
        _note_use(key)
        actor = key.actor(request_id.get())
        current_actor.set(str(actor))
        return actor, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class HasScope(BasePermission):
    """The key holds the scope that the view names for this method or action."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not isinstance(request.auth, ApiKey):
            raise Unauthenticated("Send an API key: Authorization: Bearer ck_….")
        cast(Actor, request.user).require_scope(required_scope(view, request.method or "GET"))
        return True


def required_scope(view: Any, method: str) -> str:
    """What `view.action_scopes` says for the action, else `<view.scope>:read` or `:write`."""
    action = getattr(view, "action", None) or ""
    verb = "read" if method in _SAFE else "write"
    return getattr(view, "action_scopes", {}).get(action) or f"{view.scope}:{verb}"


def _note_use(key: ApiKey) -> None:
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > _USE_IS_NOTED_EVERY:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)

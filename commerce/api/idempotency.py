"""`Idempotency-Key`: the same request sent twice has one effect and one answer.

The key's row, the work and the answer commit together. A twin that arrives meanwhile waits on the
unique index and then replays, or gets 409 after the lock timeout. Answers below 500 are kept,
except 401 and 429; whatever fails otherwise leaves no trace, the key included.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable
from typing import cast

import psycopg.errors
from django.conf import settings
from django.db import OperationalError, connection, transaction
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder

from commerce.api.models import ApiKey, IdempotencyKey
from commerce.api.problems import CONTENT_TYPE, Busy, Invalid
from commerce.errors import Conflict, FieldError, InvalidInput

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
_KEPT_HEADERS = ("ETag", "Location")
_INSERT = """
INSERT INTO api_idempotencykey (api_key_id, key, method, path, request_sha256, status, headers, created_at)
VALUES (%s, %s, %s, %s, %s, 0, '{}', now()) ON CONFLICT (api_key_id, key) DO NOTHING RETURNING id
"""


class InProgress(Conflict):
    code, title, retryable = "idempotency_in_progress", "The first request is still running", True


class Mismatch(InvalidInput):
    code, title = "idempotency_mismatch", "The key was used for another request"


class _NotKept(Exception):
    """Carries an answer that must not be remembered out of the transaction it rolls back."""

    def __init__(self, response: Response) -> None:
        self.response = response


def key_of(request: Request) -> str:
    """The header's value, quotes removed. 400 `idempotency_key_missing` without a usable one."""
    given = request.headers.get("Idempotency-Key", "").strip()
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        code = "idempotency_key_missing" if not given else "idempotency_key_invalid"
        detail = "Send an Idempotency-Key header of 1 to 255 printable characters."
        raise Invalid([FieldError("", code, detail)], code=code)
    return key


def run_once(request: Request, work: Callable[[], Response]) -> Response:
    """Answer from memory, or do `work` and remember its answer, in one transaction.

    `work` turns its own failures into answers after rolling back what it did.
    """
    key, fingerprint = key_of(request), _fingerprint(request)
    api_key = cast(ApiKey, request.auth)
    try:
        with transaction.atomic():
            row_id = _insert(api_key, key, request, fingerprint)
            if row_id is None:
                return _replay(IdempotencyKey.objects.get(api_key=api_key, key=key), fingerprint)
            response = work()
            if response.status_code >= 500 or response.status_code in (401, 429):
                raise _NotKept(response)
            # What is shown once, such as a secret, is not remembered.
            remembered = getattr(response, "remembered", response.data)
            IdempotencyKey.objects.filter(pk=row_id).update(
                status=response.status_code,
                response=json.loads(json.dumps(remembered, cls=JSONEncoder)),
                headers={name: response[name] for name in _KEPT_HEADERS if name in response},
            )
            return response
    except _NotKept as failed:
        return failed.response


def _insert(api_key: ApiKey, key: str, request: Request, fingerprint: str) -> int | None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                _INSERT, [api_key.pk, key, request.method, request.get_full_path()[:2048], fingerprint]
            )
            row = cursor.fetchone()
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            raise InProgress("A request with this Idempotency-Key is still running.") from error
        raise Busy("The database is busy; nothing was done.") from error
    return row[0] if row else None


def _replay(row: IdempotencyKey, fingerprint: str) -> Response:
    if row.request_sha256 != fingerprint:
        raise Mismatch("This Idempotency-Key was used for a request with another path or body.")
    content_type = CONTENT_TYPE if row.status >= 400 else None
    headers = {**row.headers, "Idempotent-Replay": "true"}
    return Response(row.response, status=row.status, headers=headers, content_type=content_type)


def _fingerprint(request: Request) -> str:
    """Keyed, for a plain hash of a body with an account number could be undone by guessing."""
    parts = (
        request.method or "",
        request.get_full_path(),
        request.headers.get("If-Match", ""),
        hashlib.sha256(request._request.body).hexdigest(),
    )
    return hmac.new(settings.SECRET_KEY.encode(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()

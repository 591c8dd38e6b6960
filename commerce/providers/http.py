"""How we speak HTTP to providers: short timeouts, no hidden retries, and three kinds of failure.

What was refused before it was sent, and what a provider will recognise when it comes again, is
`Retryable`; a key of ours that is refused is no refusal of what was asked. What may have happened is
`Unknown`. What was refused is `Rejected`. The relay retries, with growing pauses; only what looks
before it acts is run again here, when it lost an answer.
"""

import functools
import json
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, ParamSpec, TypeVar

import httpx
from django.conf import settings

from commerce.errors import ProviderError, Rejected, Retryable, Unknown
from commerce.logs import redact
from commerce.outbox import breaker

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_SECONDS = 3.0
LOOKS = 3
_looking: ContextVar[bool] = ContextVar("looking", default=False)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_MAYBE_DONE = frozenset({408, 500, 502, 504})
_NOT_DONE = frozenset({429, 503})
_NO_ENTRY, _PERHAPS_NO_ENTRY = 401, 403
# Of Modern Treasury's, with a 403: whoever we are, we are not let in.
_KEY_CODES = frozenset({"invalid_key", "expired_key", "invalid_ip"})
_NO_WORD = _MAYBE_DONE | _NOT_DONE | {_NO_ENTRY, _PERHAPS_NO_ENTRY}


def looks_first(method: Callable[P, T]) -> Callable[P, T]:
    """For what looks before each thing it does: when an outcome is unknown, run it again at once.

    The second look finds what the lost answer would have told. After three looks, or when the next
    could outlast the relay's lease, the Unknown goes up. Of two around each other the outer one looks.
    """

    @functools.wraps(method)
    def looking(*args: P.args, **kwargs: P.kwargs) -> T:
        if _looking.get():
            return method(*args, **kwargs)
        token = _looking.set(True)
        until = time.monotonic() + settings.OUTBOX_LEASE_SECONDS
        try:
            for _ in range(LOOKS - 1):
                began = time.monotonic()
                try:
                    return method(*args, **kwargs)
                except Unknown as error:
                    now = time.monotonic()
                    if now + (now - began) >= until:
                        raise
                    log.warning("outcome unknown, looking again: %s", error.detail)
            return method(*args, **kwargs)
        finally:
            _looking.reset(token)

    return looking


def http_client(provider: str, **options: Any) -> httpx.Client:
    """An httpx client with our timeouts and no redirects; each answer is logged, and heard by the breaker."""

    def sent(request: httpx.Request) -> None:
        request.extensions["sent_at"] = time.monotonic()

    def answered(response: httpx.Response) -> None:
        request = response.request
        if response.status_code not in _NO_WORD:
            breaker.hear()
        log.info(
            "provider call",
            extra={
                "provider": provider,
                "method": request.method,
                "path": request.url.path,
                "status": response.status_code,
                "milliseconds": round((time.monotonic() - request.extensions["sent_at"]) * 1000),
            },
        )

    return httpx.Client(
        timeout=timeout(),
        follow_redirects=False,
        event_hooks={"request": [sent], "response": [answered]},
        **options,
    )


def timeout() -> httpx.Timeout:
    return httpx.Timeout(settings.PROVIDER_TIMEOUT_SECONDS, connect=CONNECT_SECONDS)


def no_answer(
    error: BaseException | None, *, provider: str, operation: str, repeatable: bool
) -> ProviderError:
    """The failure for a request that got no (readable) answer. `repeatable`: sending it twice is harmless."""
    what = f"{provider} {operation}: {type(error).__name__}"
    if isinstance(error, _NEVER_SENT):
        breaker.miss()
        return Retryable(f"{what}, nothing was sent.", provider=provider)
    if repeatable:
        return Retryable(f"{what}, no answer.", provider=provider)
    return Unknown(f"{what}, it may have happened.", provider=provider)


def refused(
    status: int,
    *,
    provider: str,
    operation: str,
    key_setting: str,
    code: str = "",
    detail: str = "",
    repeatable: bool,
) -> ProviderError:
    """The failure for an answer that is not 2xx. The provider's words are kept, without secrets.

    `key_setting` is named to whoever has to set the key right.
    """
    what = " ".join(filter(None, [f"{provider} {operation}: {status}", code, redact(detail)[:300]]))
    extra: dict[str, Any] = {"provider": provider, "provider_status": status, "provider_code": code}
    if status == _NO_ENTRY or (status == _PERHAPS_NO_ENTRY and code in _KEY_CODES):
        breaker.miss()
        return Retryable(f"{what}. We are not let in: set {key_setting} right.", **extra)
    if status in _NOT_DONE:
        breaker.miss()
    if status in _NOT_DONE or (status in _MAYBE_DONE and repeatable):
        return Retryable(what, **extra)
    if status in _MAYBE_DONE:
        return Unknown(what, **extra)
    breaker.hear()
    return Rejected(what, **extra)


def malformed(provider: str, what: str) -> Rejected:
    """An answer that breaks the provider's own description: a person must look."""
    return Rejected(f"{provider} answered with {what}.", code="provider_malformed", provider=provider)


def parse(content: bytes) -> Any:
    """JSON with exact numbers. ValueError when it is not JSON, or nested beyond reason."""
    try:
        return json.loads(content, parse_float=Decimal)
    except RecursionError:
        raise ValueError("nested too deeply") from None

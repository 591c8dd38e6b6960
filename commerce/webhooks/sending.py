"""One POST to a stranger: no redirects, no proxies, no cookies, an end after 15 seconds, 1 kB of answer,
which has a second once the status is there.

The connection is made here, below the HTTP client, so that name, check and address are one step;
TLS and `Host` still know the name.
"""

import logging
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpcore
from django.utils import timezone

from commerce.logs import redact
from commerce.webhooks import destinations
from commerce.webhooks.destinations import Destination, ForbiddenDestination

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
WHOLE_SECONDS = 15.0
REST_SECONDS = 1.0
ANSWER_BYTES = 1024
LONGEST_WAIT = timedelta(hours=24)


@dataclass(frozen=True)
class Outcome:
    """What one attempt came to. `status_code` is None when there was no answer."""

    status_code: int | None
    error: str
    duration_ms: int
    answer: str = ""
    retry_after: timedelta | None = None

    @property
    def delivered(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


def post(url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
    """Send a body to a URL and say what happened; whatever fails is an outcome, not an exception."""
    begin = time.monotonic()
    try:
        status, error, answer, retry_after = _exchange(destinations.parse(url), body, headers)
    except ForbiddenDestination as refused:
        status, error, answer, retry_after = None, refused.detail, "", None
    except (httpcore.TimeoutException, TimeoutError):
        status, error, answer, retry_after = None, "No answer in time.", "", None
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as failed:
        status, error, answer, retry_after = None, f"{type(failed).__name__}: {failed}", "", None
    except Exception as failed:  # the edge: a stranger's answer must not cost the others theirs
        log.exception("an answer to a webhook could not be read")
        status, error, answer, retry_after = None, type(failed).__name__, "", None
    duration = int((time.monotonic() - begin) * 1000)
    return Outcome(status, _text(error)[:500], duration, answer, retry_after)


def _exchange(
    destination: Destination, body: bytes, headers: Mapping[str, str]
) -> tuple[int, str, str, timedelta | None]:
    origin = httpcore.Origin(destination.scheme.encode(), destination.host.encode(), destination.port)
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    sent = {
        "Host": host if destination.is_default_port else f"{host}:{destination.port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": "Commerce-Webhooks/1",
        "Connection": "close",
        **headers,
    }
    deadline = _Deadline(WHOLE_SECONDS)
    each = dict.fromkeys(("read", "write", "pool"), WHOLE_SECONDS) | {"connect": CONNECT_SECONDS}
    with (
        httpcore.HTTPConnection(
            origin, ssl_context=_tls(), network_backend=_Checked(destination, deadline)
        ) as connection,
        connection.stream(
            "POST",
            httpcore.URL(
                scheme=destination.scheme,
                host=destination.host,
                port=destination.port,
                target=destination.target,
            ),
            headers=list(sent.items()),
            content=body,
            extensions={"timeout": each},
        ) as response,
    ):
        deadline.shorten(REST_SECONDS)
        answer = _beginning(response.iter_stream())
        error = "" if 200 <= response.status < 300 else f"Answered {response.status}."
        given = {name.lower(): value for name, value in response.headers}.get(b"retry-after", b"")
        return response.status, error, answer, _wait(given.decode("latin-1"))


def _beginning(chunks: Iterable[bytes]) -> str:
    """How an answer begins, as text that may be kept: a later failure to read does not undo the answer."""
    begun = b""
    try:
        for chunk in chunks:
            begun += chunk
            if len(begun) >= ANSWER_BYTES:
                break
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, TimeoutError):
        pass
    return _text(begun[:ANSWER_BYTES].decode("utf-8", "replace"))


def _text(given: str) -> str:
    """What may be kept: without secrets, and without what the database cannot hold."""
    return str(redact(given.replace("\x00", "�")))


def _wait(header: str) -> timedelta | None:
    """What Retry-After asks for, at most a day."""
    if header.isascii() and header.isdigit():
        return min(timedelta(seconds=int(header[:9])), LONGEST_WAIT)
    try:
        wanted = parsedate_to_datetime(header) - timezone.now()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wanted, timedelta(0)), LONGEST_WAIT)


@cache
def _tls() -> ssl.SSLContext:
    """The usual certificate authorities, and those that SSL_CERT_FILE names."""
    return httpcore.default_ssl_context()


class _Deadline:
    """When an exchange ends, whatever it is at."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def shorten(self, seconds: float) -> None:
        self.at = min(self.at, time.monotonic() + seconds)

    def left(self) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("The time for the whole exchange is over.")
        return left


class _Checked(httpcore.SyncBackend):
    """Connects to an address that passed the check, and ends everything at the deadline."""

    def __init__(self, destination: Destination, deadline: _Deadline) -> None:
        self.destination, self.deadline = destination, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failed: Exception | None = None
        for address in destinations.addresses(self.destination, seconds=self.deadline.left())[:3]:
            try:
                stream = super().connect_tcp(address, port, min(CONNECT_SECONDS, self.deadline.left()))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _Hurried(stream, self.deadline)
        raise failed or httpcore.ConnectError("The host has no address.")


class _Hurried(httpcore.NetworkStream):
    """A stream whose reads and writes share one deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self.stream, self.deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, self.deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, self.deadline.left())

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secure = self.stream.start_tls(ssl_context, server_hostname, self.deadline.left())
        return _Hurried(secure, self.deadline)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)

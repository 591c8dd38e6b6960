"""Modern Treasury's idempotency keys: 24 hours, successes only, whatever the route.

A second call with a key whose first call is still running is a 409, as at the provider.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from commerce.sandbox.clock import iso, parse
from commerce.sandbox.core import Sandbox
from commerce.sandbox.web import Request, Response

KEPT = timedelta(hours=24)
CONFLICT = {"errors": {"code": "conflict", "message": "A request with this idempotency key is running."}}


class Idempotency:
    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._running: set[str] = set()
        self._guard = threading.Lock()

    @contextmanager
    def claim(self, provider: str, request: Request) -> Iterator[Response | None]:
        """Hold the key while the call runs; yields the stored or the 409 answer when there is one."""
        key = self._key(provider, request)
        if not key:
            yield None
            return
        with self._guard:
            running = key in self._running
            self._running.add(key)
        if running:
            yield Response(409, CONFLICT)
            return
        try:
            yield self._stored(key)
        finally:
            with self._guard:
                self._running.discard(key)

    def store(self, provider: str, request: Request, response: Response) -> None:
        key = self._key(provider, request)
        if key and response.status < 300:
            row = {"at": iso(self.sandbox.now()), "status": response.status, "body": response.body}
            self.sandbox.store.put("idempotency", row, key)

    def _stored(self, key: str) -> Response | None:
        with self.sandbox.lock:
            row = self.sandbox.store.get("idempotency", key)
            if row is None or parse(row["at"]) + KEPT <= self.sandbox.now():
                return None
            return Response(row["status"], row["body"])

    @staticmethod
    def _key(provider: str, request: Request) -> str:
        if provider != "modern_treasury" or request.method in ("GET", "DELETE"):
            return ""
        return request.headers.get("idempotency-key", "")

"""Signed webhooks: a durable queue, a delivery thread, and a policy that makes delivery worse.

The policy multiplies, shuffles, delays or loses deliveries, from a seed. A delivery that is not answered
2xx is tried again after the provider's own back-off; `flush` tries everything at once.
"""

import base64
import hashlib
import hmac
import http.client
import json
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from commerce.sandbox.core import Sandbox
from commerce.sandbox.store import Row

logger = logging.getLogger("commerce.sandbox")

TIMEOUT = 5
BACKOFF = {
    "modern_treasury": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "openmeter": (5, 300, 1800, 7200, 18000, 36000, 36000),
}
POLICY = {
    "modern_treasury_url": "",
    "openmeter_url": "",
    "copies": 1,
    "shuffle": False,
    "lose": 0.0,
    "delay_ms": 0,
    "seed": 1,
}
SHUFFLE_WINDOW = 0.4


def policy(sandbox: Sandbox) -> Row:
    public = os.environ.get("PUBLIC_URL", "").rstrip("/")
    default = f"{public}/webhooks/modern-treasury/" if public else ""
    chosen = {**POLICY, **(sandbox.store.get("policy", "webhooks") or {})}
    return {**chosen, "modern_treasury_url": chosen["modern_treasury_url"] or default}


def enqueue(sandbox: Sandbox, provider: str, url: str, body: Any, **headers: str) -> None:
    """Queue `copies` deliveries of one webhook. `headers` are those that stay the same on every attempt."""
    if not url:
        return
    rules = policy(sandbox)
    for _ in range(int(rules["copies"])):
        number = sandbox.store.count("delivery")
        dice = random.Random(f"{rules['seed']}:{number}")  # noqa: S311 - reproducible, not secret
        if dice.random() < rules["lose"]:
            sandbox.store.count("webhooks_lost")
            continue
        wait = rules["delay_ms"] / 1000 + (dice.random() * SHUFFLE_WINDOW if rules["shuffle"] else 0)
        row = {
            "id": f"{number:012d}",
            "provider": provider,
            "url": url,
            "body": json.dumps(body, separators=(",", ":")),
            "headers": headers,
            "due": time.time() + wait,
            "attempts": 0,
        }
        sandbox.store.put("delivery", row)


def signed_headers(row: Row) -> dict[str, str]:
    """The headers of one attempt. Svix signs the attempt's time, Modern Treasury only the body."""
    body = row["body"].encode()
    fixed = dict(row["headers"])
    if row["provider"] == "modern_treasury":
        key = os.environ.get("MODERN_TREASURY_WEBHOOK_KEY", "")
        fixed["X-Signature"] = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
        fixed["X-Delivery-ID"] = f"{row['id']}-{row['attempts'] + 1}"
        return {**fixed, "Content-Type": "application/json", "User-Agent": "http.rb/4.2.0"}
    secret, sent_at = fixed.pop("secret"), str(int(time.time()))
    signed = f"{fixed['svix-id']}.{sent_at}.".encode() + body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    fixed |= {"svix-timestamp": sent_at, "svix-signature": "v1," + base64.b64encode(digest).decode()}
    return {**fixed, "Content-Type": "application/json", "User-Agent": "Svix-Webhooks/1.40"}


class Courier:
    """One thread that delivers what is due, in order of due time."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.log: deque[Row] = deque(maxlen=2000)
        self._turn = threading.RLock()  # one delivery at a time keeps the order, whoever delivers
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._loop, daemon=True, name="courier").start()

    def stop(self) -> None:
        self._stop.set()

    def pending(self) -> int:
        return len(self.sandbox.store.table("delivery"))

    def flush(self, seconds: float = 30.0) -> Row:
        """Attempt everything queued, and what arrives meanwhile, once each, whatever its due time."""
        give_up, tried, delivered = time.time() + seconds, set[str](), 0
        with self._turn:
            while time.time() < give_up and (row := self._next(float("inf"), but=tried)):
                tried.add(row["id"])
                delivered += self._deliver(row)
        return {"attempted": len(tried), "delivered": delivered, "pending": self.pending()}

    def _loop(self) -> None:
        while not self._stop.is_set():
            with self._turn:
                row = self._next(due=time.time())
                if row:
                    self._deliver(row)
            if not row:
                self._stop.wait(0.01)

    def _next(self, due: float, but: Iterable[str] = ()) -> Row | None:
        with self.sandbox.lock:
            rows = self.sandbox.store.table("delivery").values()
            waiting = [row for row in rows if row["due"] <= due and row["id"] not in but]
            return min(waiting, key=lambda row: (row["due"], row["id"]), default=None)

    def _deliver(self, row: Row) -> bool:
        status = 0
        try:
            status = _post(row["url"], row["body"].encode(), signed_headers(row))
        except (OSError, http.client.HTTPException) as error:
            logger.info("webhook %s to %s: %s", row["id"], row["url"], error)
        delivered = 200 <= status < 300
        with self.sandbox.lock:
            self._settle(row, delivered, status)
        return delivered

    def _settle(self, row: Row, delivered: bool, status: int) -> None:
        store, attempts = self.sandbox.store, row["attempts"] + 1
        self.log.append(
            {k: row[k] for k in ("id", "provider", "url")} | {"status": status, "attempt": attempts}
        )
        if store.get("delivery", row["id"]) is None:
            return
        backoff = BACKOFF[row["provider"]]
        if delivered or attempts > len(backoff):
            store.remove("delivery", row["id"])
            store.count("webhooks_delivered" if delivered else "webhooks_given_up")
        else:
            store.patch("delivery", row["id"], attempts=attempts, due=time.time() + backoff[attempts - 1])
        store.commit()


def _post(url: str, body: bytes, headers: dict[str, str]) -> int:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT)
    try:
        connection.request("POST", parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
        return connection.getresponse().status
    finally:
        connection.close()

"""Faults on demand: what goes wrong on the way to a simulator or on the way back.

Rules are matched by provider, method and a regular expression on the path. An *effectful* call is one
with an unsafe method; `answer_lost_once_each` drops the first answer of every distinct one after its
effect, so that the retry meets the provider's own idempotency. A rule with a `rate` strikes so often
among the calls that it fits.
"""

import hashlib
import random
import re
from typing import Any

from commerce.sandbox.core import Sandbox
from commerce.sandbox.store import Row
from commerce.sandbox.web import ApiError, Request

KINDS = (
    "error", "error_after_effect", "timeout_before", "timeout_after_effect", "answer_lost_once_each", "slow",
)  # fmt: skip
SAFE = ("GET", "HEAD", "OPTIONS")


def add(sandbox: Sandbox, rule: dict[str, Any]) -> Row:
    """Keep a rule. `count` is how often it strikes; without one it strikes once, or for ever when 0."""
    if rule.get("kind") not in KINDS:
        raise ApiError(422, "invalid", f"kind must be one of {', '.join(KINDS)}.")
    try:
        re.compile(str(rule.get("path", "")))
    except re.error as error:
        raise ApiError(422, "invalid", f"path is not a regular expression: {error}.") from None
    rate = rule.get("rate", 1)
    if not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise ApiError(422, "invalid", "rate must be above 0 and at most 1.")
    endless = rule["kind"] == "answer_lost_once_each"
    row = {
        "id": f"{sandbox.store.count('fault'):06d}",
        "provider": rule.get("provider", ""),
        "method": str(rule.get("method", "")).upper(),
        "path": rule.get("path", ""),
        "kind": rule["kind"],
        "status": int(rule.get("status", 503)),
        "message": str(rule.get("message", "An injected fault.")),
        "delay_ms": int(rule.get("delay_ms", 500)),
        "rate": rate,
        "left": int(rule.get("count", 0 if endless else 1)) or None,
        "hits": 0,
    }
    return sandbox.store.put("fault", row)


def strike(sandbox: Sandbox, provider: str, request: Request) -> Row | None:
    """The rule that hits this call, if any; its count is spent."""
    for rule in sandbox.store.rows("fault"):
        if rule["left"] is not None and rule["left"] <= rule["hits"]:
            continue
        if not _matches(rule, provider, request):
            continue
        if random.random() >= rule["rate"]:  # noqa: S311 - a fault, not a secret
            continue
        if rule["kind"] == "answer_lost_once_each" and not _first_time(sandbox, provider, request):
            continue
        return sandbox.store.patch("fault", rule["id"], hits=rule["hits"] + 1)
    return None


def clear(sandbox: Sandbox) -> None:
    for table in ("fault", "answer"):
        for key in list(sandbox.store.table(table)):
            sandbox.store.remove(table, key)


def _matches(rule: Row, provider: str, request: Request) -> bool:
    if rule["provider"] and rule["provider"].replace("-", "_") != provider:
        return False
    if rule["method"] and rule["method"] != request.method:
        return False
    if rule["kind"] == "answer_lost_once_each" and request.method in SAFE:
        return False
    return re.search(rule["path"], request.path) is not None


def _first_time(sandbox: Sandbox, provider: str, request: Request) -> bool:
    parts = [provider, request.method, request.path, request.headers.get("idempotency-key", "")]
    key = hashlib.sha256("\n".join(parts).encode() + request.raw).hexdigest()
    if sandbox.store.get("answer", key):
        return False
    sandbox.store.put("answer", {"path": request.path}, key)
    return True

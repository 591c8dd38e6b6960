"""JSON logs: one object a line, with the request, actor and event at hand, and no secrets.

What is bound with `bound()` or by the request middleware appears on every line until it ends.
Values under telling names, and anything that looks like a key or an account number, are masked.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.http import HttpRequest, HttpResponse

from commerce.ids import uuid7

request_id: ContextVar[str] = ContextVar("request_id", default="")
actor: ContextVar[str] = ContextVar("actor", default="")
event_id: ContextVar[str] = ContextVar("event_id", default="")
_CONTEXT = {"request_id": request_id, "actor": actor, "event_id": event_id}

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_NAMES = re.compile(
    r"secret|token|password|authorization|api_?key|signature|account_number|iban|routing", re.IGNORECASE
)
_SECRET_VALUES = re.compile(
    r"ck_(live|test)_[a-z0-9]+_[A-Za-z0-9]\w*|whsec_[\w+/=]+|(Bearer|Basic)\s+[\w.+/=-]+|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|(?i:secret|token|password|api_?key)(?:\s?=\s?|[\"']?:\s+|[\"']:)[\"']?[^\s,;&\"'}]+"
    r"|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b|(?<![\w-])\d{9,19}(?![\w-])"
)
_MASK = "[redacted]"


@contextmanager
def bound(**values: str) -> Iterator[None]:
    """Put `request_id`, `actor` or `event_id` on every line logged inside."""
    tokens = [(_CONTEXT[name], _CONTEXT[name].set(value)) for name, value in values.items()]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def redact(value: Any) -> Any:
    """A copy of `value` without secrets, whatever the nesting; what JSON does not know becomes text."""
    if isinstance(value, dict):
        return {
            redact(str(name)): _MASK if _SECRET_NAMES.search(str(name)) else redact(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    if value is None or isinstance(value, bool | int | float | Decimal):
        return value
    return _SECRET_VALUES.sub(_MASK, str(value))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, logger, message, context, extras, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        line |= {name: value.get() for name, value in _CONTEXT.items() if value.get()}
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        said = json.dumps(redact(line), default=str, ensure_ascii=False)
        return said.encode("utf-8", "replace").decode()  # half a pair of surrogates would lose the line


def _message(record: logging.LogRecord) -> str:
    """Arguments that do not fit their message are shown beside it; logging would print them unmasked."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args}"


class RequestMiddleware:
    """Give each request an id (the caller's X-Request-ID when it is sane) and answer with it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        id_ = given if re.fullmatch(r"[\w.-]{8,64}", given) else uuid7().hex
        with bound(request_id=id_, actor=""):
            response = self.get_response(request)
        response["X-Request-ID"] = id_
        return response

    def process_view(self, request: HttpRequest, *_: Any) -> None:
        """Name the person at the console; the API names its key when it has looked at it."""
        if request.resolver_match and request.resolver_match.app_name == "admin":
            user = getattr(request, "user", None)
            if user is not None and user.is_authenticated:
                actor.set(f"user:{user.pk}")

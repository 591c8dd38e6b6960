"""What the simulators agree on about HTTP: request, response, error and routes."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote


class ApiError(Exception):
    """An answer that is not a success. `parameter` is Modern Treasury's, `extensions` OpenMeter's."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        parameter: str | None = None,
        extensions: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.parameter, self.extensions = parameter, extensions or {}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in lower case
    raw: bytes = b""
    params: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        if not self.raw:
            return {}
        try:
            return json.loads(self.raw, parse_constant=_no_constant)
        except ValueError:
            raise ApiError(400, "parameter_invalid", "The request body is not valid JSON.") from None

    def body(self) -> dict[str, Any]:
        body = self.json()
        if not isinstance(body, dict):
            raise ApiError(400, "parameter_invalid", "The request body must be a JSON object.")
        return body

    def one(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[-1]

    def many(self, name: str) -> list[str]:
        """Repeated keys, with or without the comma-separated form."""
        return [part for value in self.query.get(name, []) for part in value.split(",") if part]


def _no_constant(name: str) -> None:
    raise ValueError(name)


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def payload(self) -> bytes:
        return b"" if self.body is None else json.dumps(self.body, separators=(",", ":")).encode()


Handler = Callable[[Any, Request], Response]


class Router:
    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []

    def route(self, method: str, template: str) -> Callable[[Handler], Handler]:
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template) + "/?$")

        def register(handler: Handler) -> Handler:
            self._routes.append((method, pattern, handler))
            return handler

        return register

    def get(self, template: str) -> Callable[[Handler], Handler]:
        return self.route("GET", template)

    def post(self, template: str) -> Callable[[Handler], Handler]:
        return self.route("POST", template)

    def put(self, template: str) -> Callable[[Handler], Handler]:
        return self.route("PUT", template)

    def patch(self, template: str) -> Callable[[Handler], Handler]:
        return self.route("PATCH", template)

    def delete(self, template: str) -> Callable[[Handler], Handler]:
        return self.route("DELETE", template)

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]]:
        """The handler and the path's parameters; ApiError 404 or 405. The first route that fits wins."""
        known = False
        for verb, pattern, handler in self._routes:
            if match := pattern.match(path):
                known = True
                if verb == method:
                    return handler, {name: unquote(value) for name, value in match.groupdict().items()}
        if known:
            raise ApiError(405, "method_not_allowed", f"{method} is not allowed here.")
        raise ApiError(404, "resource_not_found", f"There is nothing at {path}.")

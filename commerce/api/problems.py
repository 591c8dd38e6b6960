"""Every failure as `application/problem+json` (RFC 9457) with a stable `code` and the request's id.

`errors` lists what is wrong field by field, with a JSON pointer into the body ("/lines/0/quantity")
or "?name" for a query parameter.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg.errors
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import DataError, IntegrityError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.response import Response

from commerce.errors import CommerceError, FieldError, NotFound, PermissionDenied, VersionConflict
from commerce.logs import request_id

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
_CODES = {
    exceptions.ParseError: "malformed_json",
    exceptions.UnsupportedMediaType: "unsupported_media_type",
    exceptions.MethodNotAllowed: "method_not_allowed",
    exceptions.NotAcceptable: "not_acceptable",
    exceptions.NotAuthenticated: "unauthenticated",
    exceptions.AuthenticationFailed: "unauthenticated",
    exceptions.PermissionDenied: "permission_denied",
    exceptions.Throttled: "throttled",
}
_TITLES = {
    400: "The request cannot be read",
    401: "Who is asking is not known",
    403: "Not allowed",
    404: "Not found",
    405: "The method is not allowed here",
    406: "No such representation",
    412: "Somebody changed this in the meantime",
    413: "Too large",
    415: "Send JSON",
    429: "Too many requests",
}


class Invalid(CommerceError):
    """What the door itself refuses, before any service is asked: 400, where services say 422."""

    code, status, title = "invalid_request", 400, "The request is not valid"

    def __init__(self, errors: Iterable[FieldError] = (), detail: str = "", code: str = "") -> None:
        errors = list(errors)
        super().__init__(
            detail or "; ".join(f"{e.pointer}: {e.detail}" if e.pointer else e.detail for e in errors[:3]),
            code=code,
            errors=errors,
        )


class Refused(CommerceError):
    """What HTTP itself says no to: 404 to 429."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail, code=code)
        self.status, self.title = status, _TITLES.get(status, CommerceError.title)


class Busy(CommerceError):
    """The database could not do it now; nothing was done."""

    code, status, title, retryable = "busy", 503, "Try again", True


class InternalError(CommerceError):
    code, status = "internal_error", 500


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response:
    """DRF's hook: any exception becomes a problem; what nobody foresaw is logged and says nothing."""
    error = translate(exc)
    status = error.status
    headers: dict[str, str] = {}
    request = context.get("request")
    if isinstance(error, VersionConflict) and request is not None and "If-Match" in request.headers:
        status = 412
    if isinstance(exc, exceptions.APIException):
        if auth_header := getattr(exc, "auth_header", None):
            headers["WWW-Authenticate"] = auth_header
        if wait := getattr(exc, "wait", None):
            headers["Retry-After"] = str(int(wait))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="api"'
    if error.retryable:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    if isinstance(error, InternalError):
        log.error("unforeseen failure of a request", exc_info=exc)
    return Response(problem(error, status), status=status, headers=headers, content_type=CONTENT_TYPE)


def problem(error: CommerceError, status: int | None = None) -> dict[str, Any]:
    """The document; `extra` members never displace the standard ones."""
    status = status or error.status
    return {
        **error.extra,
        "type": f"urn:commerce:problem:{error.code}",
        "title": error.title,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": request_id.get(),
        "errors": [{"pointer": e.pointer, "code": e.code, "detail": e.detail} for e in error.errors],
    }


def translate(exc: Exception) -> CommerceError:
    """The CommerceError that says the same as `exc`."""
    if isinstance(exc, CommerceError):
        return exc
    if isinstance(exc, Http404 | exceptions.NotFound):
        return NotFound("There is no such thing, or it is not yours to see.")
    if isinstance(exc, DjangoPermissionDenied):
        return PermissionDenied(str(exc) or "This is not allowed.")
    if isinstance(exc, RequestDataTooBig):
        return Refused(413, "too_large", "The body is larger than 1 MiB.")
    if isinstance(exc, SuspiciousOperation | UnreadablePostError):
        return Refused(400, "bad_request", "The request cannot be read.")
    if isinstance(exc, exceptions.ValidationError):
        return Invalid(field_errors(exc.detail))
    if isinstance(exc, exceptions.APIException):
        return _from_framework(exc)
    if isinstance(exc, OperationalError):
        return Busy("The database is busy or away; nothing was changed. Send the same request again.")
    if isinstance(exc, IntegrityError) and isinstance(exc.__cause__, psycopg.errors.UniqueViolation):
        return Refused(409, "conflict", "Something with the same identity exists already.")
    if isinstance(exc, DataError):
        return Invalid(detail="A value does not fit what can be stored.")
    return InternalError("The failure is logged under this request_id; nothing was changed.")


def _from_framework(exc: exceptions.APIException) -> CommerceError:
    code = next((code for kind, code in _CODES.items() if isinstance(exc, kind)), "error")
    return Refused(exc.status_code, code, str(exc.detail))


def field_errors(detail: Any, pointer: str = "") -> Iterator[FieldError]:
    """Flatten DRF's nested error detail, lists as indexes, into pointers."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            here = pointer if name == "non_field_errors" else f"{pointer}/{name}"
            yield from field_errors(inner, here)
    elif isinstance(detail, list | tuple):
        for index, inner in enumerate(detail):
            nested = isinstance(inner, dict | list)
            yield from field_errors(inner, f"{pointer}/{index}" if nested else pointer)
    else:
        yield FieldError(pointer, getattr(detail, "code", "") or "invalid", str(detail))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler404: a problem under /api/, the usual page elsewhere."""
    return _page(request, NotFound("There is no such address."), defaults.page_not_found, exception)


@csrf_exempt
def missing_slash(request: HttpRequest, **_: Any) -> HttpResponse:
    """A redirect would turn a POST into a GET; say what is wrong instead."""
    return _problem_response(NotFound("Addresses of the API end with a slash."))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    error = Refused(400, "bad_request", "The request cannot be read.")
    return _page(request, error, defaults.bad_request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, PermissionDenied("Not allowed."), defaults.permission_denied, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/api/"):
        return _problem_response(InternalError("The failure is logged under this request_id."))
    return defaults.server_error(request)


def _page(request: HttpRequest, error: CommerceError, page: Any, exception: Exception) -> HttpResponse:
    if request.path.startswith("/api/"):
        return _problem_response(error)
    return page(request, exception)


def _problem_response(error: CommerceError) -> HttpResponse:
    return JsonResponse(problem(error), status=error.status, content_type=CONTENT_TYPE)

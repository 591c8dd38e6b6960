"""What all OpenMeter resources share: rows with ULIDs, RFC 7807 problems, pages and body checks."""

from decimal import Decimal, InvalidOperation
from typing import Any

from commerce.sandbox.clock import parse
from commerce.sandbox.core import Sandbox
from commerce.sandbox.store import Row
from commerce.sandbox.web import ApiError, Request, Response, Router

router = Router()

TITLES = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    409: "Conflict", 412: "Precondition Failed", 500: "Internal Server Error", 501: "Not Implemented",
    503: "Service Unavailable",
}  # fmt: skip
MAX_PAGE_SIZE = 1000


def problem(error: ApiError, request: Request) -> Response:
    if error.status == 501:
        return Response(501)
    body = {
        "type": "about:blank",
        "title": TITLES.get(error.status, "Error"),
        "status": error.status,
        "detail": "" if error.status == 500 else error.detail,
        "instance": f"urn:request:{request.headers.get('x-request-id', 'sandbox')}",
    }
    if error.extensions:
        body["extensions"] = error.extensions
    return Response(error.status, body, content_type="application/problem+json")


def bad(detail: str, **extensions: Any) -> ApiError:
    return ApiError(400, "bad_request", detail, extensions=extensions)


def billing_error(code: str, message: str) -> ApiError:
    """A billing problem: one validation issue flattened into `extensions`."""
    return bad(message, code=code, severity="critical", message=message, component="openmeter", path="")


def subscription_error(status: int, code: str, message: str) -> ApiError:
    issue = {"code": code, "message": message, "severity": "critical"}
    return ApiError(status, code, message, extensions={"validationErrors": [issue]})


def create(sandbox: Sandbox, table: str, **fields: Any) -> Row:
    now = sandbox.stamp()
    row = {"id": sandbox.ulid(), "createdAt": now, "updatedAt": now, **compact(fields)}
    return sandbox.store.put(f"om.{table}", row)


def change(sandbox: Sandbox, table: str, row: Row, **fields: Any) -> Row:
    return sandbox.store.put(f"om.{table}", compact({**row, **fields, "updatedAt": sandbox.stamp()}))


def fetch(sandbox: Sandbox, table: str, identity: str) -> Row:
    row = sandbox.store.get(f"om.{table}", identity)
    if row is None or row.get("deletedAt"):
        raise ApiError(404, "not_found", f"{table} with id {identity} not found")
    return row


def live(sandbox: Sandbox, table: str) -> list[Row]:
    return [row for row in sandbox.store.rows(f"om.{table}") if not row.get("deletedAt")]


def compact(fields: Row) -> Row:
    """OpenMeter leaves out what is not set."""
    return {name: value for name, value in fields.items() if value is not None}


def public(row: Row) -> Row:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def required(body: Row, *names: str) -> None:
    missing = [name for name in names if body.get(name) in (None, "")]
    if missing:
        raise bad(f"request body has an error: property {missing[0]!r} is missing")


def one_of(body: Row, name: str, allowed: tuple[str, ...]) -> None:
    if name in body and body[name] not in allowed:
        raise bad(f"{name}: value is not one of the allowed values {', '.join(allowed)}")


def instant(text: Any, name: str) -> str:
    try:
        parse(text)
    except (TypeError, ValueError):
        raise bad(f"{name}: {text!r} is not an RFC 3339 date-time") from None
    return str(text)


def amount(text: Any, name: str, signed: bool = False) -> Decimal:
    """Money on this wire is a decimal string; a JSON number is refused as the real server does."""
    if not isinstance(text, str):
        raise bad(f"{name}: value must be a string")
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or "e" in text.lower() or (value < 0 and not signed):
        raise bad(f"{name}: {text!r} is not a valid amount")
    return value


def page(request: Request, rows: list[Row]) -> Response:
    try:
        number, size = int(request.one("page", "1")), int(request.one("pageSize", "100"))
    except ValueError:
        raise bad("page and pageSize must be integers") from None
    if number < 1 or not 1 <= size <= MAX_PAGE_SIZE:
        raise bad(f"page must be at least 1, pageSize between 1 and {MAX_PAGE_SIZE}")
    items = rows[(number - 1) * size : number * size]
    return Response(200, {"totalCount": len(rows), "page": number, "pageSize": size, "items": items})


def ordered(request: Request, rows: list[Row], default: str, allowed: tuple[str, ...]) -> list[Row]:
    field, direction = request.one("orderBy", default), request.one("order", "ASC")
    if field not in allowed or direction not in ("ASC", "DESC"):
        raise bad(f"orderBy must be one of {', '.join(allowed)}, order ASC or DESC")
    return sorted(rows, key=lambda row: str(row.get(field, "")), reverse=direction == "DESC")

"""Optimistic concurrency over HTTP: `ETag: "7"` out, `If-Match: "7"` in.

Missing is 428; a stale one is the service's VersionConflict, which the API answers with 412.
"""

import re

from rest_framework.request import Request

from commerce.errors import CommerceError, InvalidInput


class PreconditionRequired(CommerceError):
    code, status, title = "precondition_required", 428, "Say which version you have seen"


def etag(version: int) -> str:
    return f'"{version}"'


def require_if_match(request: Request) -> int:
    """The version in `If-Match`; PreconditionRequired without one."""
    given = request.headers.get("If-Match")
    if given is None:
        raise PreconditionRequired("Send If-Match with the ETag of the version this change is based on.")
    found = re.fullmatch(r'(?:W/)?"(\d{1,9})"', given.strip())
    if not found:
        raise InvalidInput('If-Match must be one ETag, such as "7".', code="invalid_if_match")
    return int(found[1])

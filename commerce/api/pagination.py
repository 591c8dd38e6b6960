"""Cursor pages by `-id`: stable while rows are added, as fast at the end as at the start, no totals."""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from commerce.api.problems import Invalid
from commerce.errors import FieldError


class IdCursorPagination(CursorPagination):
    """`{"items": [...], "next": url or null, "previous": url or null}`, newest first."""

    ordering = "-id"
    page_size_query_param = "page_size"
    max_page_size = 200

    def paginate_queryset(
        self, queryset: QuerySet | Sequence[Any], request: Request, view: Any = None
    ) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (NotFound, ValidationError, ValueError) as error:
            raise Invalid(
                [FieldError("?cursor", "invalid_cursor", "The cursor is not one of ours.")]
            ) from error

    def decode_cursor(self, request: Request) -> Any:
        """A text that says nothing would be the first page again, and a walk without end."""
        cursor = super().decode_cursor(request)
        if cursor == (0, False, None):
            raise NotFound
        return cursor

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"items": data, "next": self.get_next_link(), "previous": self.get_previous_link()})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["items", "next", "previous"],
            "properties": {"items": schema, "next": link, "previous": link},
        }

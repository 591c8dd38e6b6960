"""The OpenAPI document: what every operation shares is declared here once.

API keys as the security scheme, `Idempotency-Key` on unsafe operations, query parameters from the
view's query serializer, the scope needed, and the problem document for each way to fail.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from commerce.api.auth import required_scope
from commerce.api.idempotency import UNSAFE
from commerce.api.problems import CONTENT_TYPE

_PROBLEMS = {
    "400": "The request cannot be read: malformed, unknown or missing fields.",
    "401": "No usable API key.",
    "403": "The key lacks the scope.",
    "404": "Not there, or not yours.",
    "409": "Conflicts with what is stored, or its twin is still running.",
    "413": "Larger than 1 MiB.",
    "415": "Not JSON.",
    "422": "Understood and refused.",
}
_READ_PROBLEMS = ("400", "401", "403", "404")
_VERSION_PROBLEMS = {
    "412": "Somebody changed it after the version in If-Match.",
    "428": "If-Match is missing.",
}


class FieldProblem(serializers.Serializer):
    pointer = serializers.CharField(help_text="JSON pointer into the body, or ?name for a parameter.")
    code = serializers.CharField()
    detail = serializers.CharField()


class Problem(serializers.Serializer):
    """RFC 9457; further members depend on the code."""

    type = serializers.CharField(help_text="urn:commerce:problem:<code>")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable; branch on this.")
    retryable = serializers.BooleanField(help_text="The same request may be sent again as it is.")
    request_id = serializers.CharField()
    errors = FieldProblem(many=True)  # type: ignore[assignment]


class ApiKeyScheme(OpenApiAuthenticationExtension):
    target_class = "commerce.api.auth.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "ck_live_… or ck_test_…",
            "description": "An API key of one organization. Its scopes are listed at each operation.",
        }


class Schema(AutoSchema):
    """The project's default schema class."""

    def get_override_parameters(self) -> list[Any]:
        parameters: list[Any] = []
        if self.method in UNSAFE:
            parameters.append(
                OpenApiParameter(
                    "Idempotency-Key",
                    str,
                    OpenApiParameter.HEADER,
                    required=True,
                    description="Your name for this request; sending it again replays the first answer.",
                )
            )
        declared = getattr(self.view, "declared_query", lambda: None)()
        if declared is not None:
            parameters.append(declared)
        return parameters

    def get_extensions(self) -> dict[str, Any]:
        scope = required_scope(self.view, self.method) if getattr(self.view, "scope", "") else ""
        return {**super().get_extensions(), **({"x-scope": scope} if scope else {})}

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        responses = super()._get_response_bodies(direction)
        problem = self.resolve_serializer(Problem, "response").ref
        is_versioned = any(getattr(p, "name", "") == "If-Match" for p in self.get_override_parameters())
        problems = _PROBLEMS | (_VERSION_PROBLEMS if is_versioned else {})
        read_problems = getattr(self.view, "read_problems", ())
        for status, description in problems.items():
            if self.method in UNSAFE or status in (*_READ_PROBLEMS, *read_problems):
                content = {CONTENT_TYPE: {"schema": problem}}
                responses.setdefault(status, {"content": content, "description": description})
        return responses

    def _get_pagination_parameters(self) -> list[Any]:
        return []

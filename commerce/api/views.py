"""The base of every API view: scope, tenancy, strict query, idempotency and one clock reading.

An unsafe request is one transaction: the idempotency key, the service's work, the stored answer.
A deadlock or serialization failure is retried once, unseen by the caller; then it is 503.
"""

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import Any, cast

import psycopg.errors
from django.db import OperationalError, models, transaction
from django.http import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import GenericViewSet

from commerce import clock
from commerce.actor import Actor
from commerce.api.idempotency import UNSAFE, run_once
from commerce.api.models import ApiKey
from commerce.api.problems import Invalid
from commerce.api.serializers import PageQuery, Query
from commerce.errors import FieldError

_LOST_RACES = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class CommerceViewSet(GenericViewSet):
    """`scope` names the resource: safe methods need `<scope>:read`, others `<scope>:write`, unless
    `action_scopes` says otherwise for an action. `query_serializer` declares the parameters of the
    list; an extra action names its own: `@action(..., query_serializer=StatementQuery)`.
    `read_problems` documents by which other statuses reading may be refused.
    """

    scope = ""
    action_scopes: dict[str, str] = {}
    read_problems: tuple[str, ...] = ()
    query_serializer: type[Query] = PageQuery
    metadata_class = None

    @cached_property
    def at(self) -> datetime:
        """Business time, read once per request."""
        return clock.now()

    @property
    def actor(self) -> Actor:
        return cast(Actor, self.request.user)

    @property
    def api_key(self) -> ApiKey:
        return cast(ApiKey, self.request.auth)

    @cached_property
    def query(self) -> dict[str, Any]:
        """The validated query parameters; anything not declared is 400."""
        declared = self.declared_query()
        known = declared().fields if declared else {}
        unknown = [
            FieldError(f"?{name}", "unknown_parameter", "There is no such parameter.")
            for name in self.request.query_params
            if name not in known
        ]
        if unknown:
            raise Invalid(unknown)
        if declared is None:
            return {}
        serializer = declared(data=self.request.query_params.dict())
        if not serializer.is_valid():
            raise Invalid(
                FieldError(f"?{name}", getattr(reason, "code", "invalid"), str(reason))
                for name, reasons in serializer.errors.items()
                for reason in reasons
            )
        return dict(serializer.validated_data)

    def declared_query(self) -> type[Query] | None:
        """The serializer of this action's query parameters; None when it takes none."""
        handler = getattr(self, self.action or "", None)
        if handler is not None and hasattr(handler, "kwargs"):
            return handler.kwargs.get("query_serializer")
        return self.query_serializer if self.action == "list" else None

    def visible(self, queryset: models.QuerySet, organization: Any) -> models.QuerySet:
        """The rows that belong to `organization`. Nothing, until a view says what."""
        return queryset.none()

    def get_queryset(self) -> models.QuerySet:
        queryset = super().get_queryset()
        if getattr(self, "swagger_fake_view", False) or self.sees_everything:
            return queryset
        return self.visible(queryset, self.api_key.organization)

    @property
    def sees_everything(self) -> bool:
        """Keys of the platform see every organization's rows."""
        return "platform" in self.api_key.organization.roles

    def validated(self, serializer_class: type[BaseSerializer]) -> dict[str, Any]:
        """The request's body, checked against a serializer."""
        serializer = serializer_class(data=self.request.data, context=self.get_serializer_context())
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        _ = self.query

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """DRF's dispatch, with the handler of an unsafe method wrapped in its idempotency key."""
        self.args, self.kwargs = args, kwargs
        self.request = self.initialize_request(request, *args, **kwargs)
        self.headers = self.default_response_headers
        try:
            self.initial(self.request, *args, **kwargs)
            response = self._answer(self._handler(), *args, **kwargs)
        except Exception as error:  # the door's edge: every failure becomes a problem document
            response = self.handle_exception(error)
        self.response = self.finalize_response(self.request, response, *args, **kwargs)
        return self.response

    def _handler(self) -> Callable[..., Response]:
        method = (self.request.method or "").lower()
        if method in self.http_method_names:
            return getattr(self, method, self.http_method_not_allowed)
        return self.http_method_not_allowed

    def _answer(self, handler: Callable[..., Response], *args: Any, **kwargs: Any) -> Response:
        if self.request.method not in UNSAFE or handler == self.http_method_not_allowed:
            return handler(self.request, *args, **kwargs)

        def work() -> Response:
            try:
                with transaction.atomic():
                    return handler(self.request, *args, **kwargs)
            except OperationalError:
                raise
            except Exception as error:  # as above; the savepoint has undone what the handler did
                return self.handle_exception(error)

        try:
            return run_once(self.request, work)
        except OperationalError as error:
            if not isinstance(error.__cause__, _LOST_RACES):
                raise
            return run_once(self.request, work)

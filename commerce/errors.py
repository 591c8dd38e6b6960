"""One vocabulary of failure for every door.

A `CommerceError` carries what each door needs: a stable `code` and HTTP `status` for the API, a
sentence for the operator, and `retryable` for the relay. Provider errors say what may be done
next: `Retryable` (nothing happened, try again), `Rejected` (a person must look), `Unknown`
(it may have happened: look it up before sending again).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FieldError:
    """One fault in the input: a JSON pointer (or ""), a stable code, and a sentence."""

    pointer: str
    code: str
    detail: str


class CommerceError(Exception):
    """Base of everything a door may show; `extra` becomes members of the problem document."""

    code = "error"
    status = 500
    title = "Something went wrong"
    retryable = False

    def __init__(
        self,
        detail: str,
        *,
        pointer: str = "",
        code: str = "",
        errors: Iterable[FieldError] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.extra = extra
        if errors is not None:
            self.errors = list(errors)
        else:
            self.errors = [FieldError(pointer, self.code, detail)] if pointer else []

    def __str__(self) -> str:
        fields = "; ".join(f"{e.pointer}: {e.detail}" for e in self.errors if e.detail != self.detail)
        return f"{self.detail} ({fields})" if fields else self.detail


class InvalidInput(CommerceError):
    code, status, title = "invalid_input", 422, "The request is not valid"


class Unauthenticated(CommerceError):
    code, status, title = "unauthenticated", 401, "Who is asking is not known"


class PermissionDenied(CommerceError):
    code, status, title = "permission_denied", 403, "Not allowed"


class NotFound(CommerceError):
    code, status, title = "not_found", 404, "Not found"


class Conflict(CommerceError):
    code, status, title = "conflict", 409, "The request conflicts with what is stored"


class StateConflict(Conflict):
    code, title = "state_conflict", "The current state does not allow this"


class VersionConflict(Conflict):
    code, title = "version_conflict", "Somebody changed this in the meantime"


class InsufficientFunds(Conflict):
    code, title = "insufficient_funds", "The account does not hold enough"


class Busy(CommerceError):
    """Others were faster; nothing was written, and the same request may be sent again."""

    code, status, title, retryable = "busy", 503, "Others came between; try again", True


class UnknownVersion(CommerceError):
    """A newer release wrote it: nothing but that release can read it."""

    code, title = "unknown_version", "This release is too old to read it"


class ProviderError(CommerceError):
    code, status, title = "provider_error", 502, "A provider did not do what was asked"


class Retryable(ProviderError):
    """Nothing happened at the provider; the same request may be sent again."""

    code, status, retryable = "provider_unavailable", 503, True


class Rejected(ProviderError):
    """The provider said no; sending it again will not help."""

    code = "provider_rejected"


class Unknown(ProviderError):
    """No answer: the effect may or may not exist. Retry begins with a look-up by our reference."""

    code, status, retryable = "provider_outcome_unknown", 504, True

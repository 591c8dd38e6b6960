"""Who acts: a person in the admin, an API key, or a part of the system.

An `Actor` travels as an argument through every service into logs, transition logs and event
headers, so that each change names its author and the request it came with.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from commerce.errors import PermissionDenied


@dataclass(frozen=True)
class Actor:
    """`permissions` and `scopes` are consulted for API keys only; people carry Django permissions, the
    system has all.
    """

    type: str
    id: str
    label: str = ""
    organization_id: UUID | None = None
    permissions: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    user: Any = field(default=None, compare=False, repr=False)
    request_id: str = ""

    @classmethod
    def system(cls, name: str) -> "Actor":
        return cls(type="system", id=name, label=name)

    @classmethod
    def for_user(cls, user: Any, request_id: str = "") -> "Actor":
        return cls(type="user", id=str(user.pk), label=user.get_username(), user=user, request_id=request_id)

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"

    def has_perm(self, permission: str) -> bool:
        if self.type == "system":
            return True
        if self.user is not None:
            return bool(self.user.has_perm(permission))
        return permission in self.permissions

    def require(self, permission: str) -> None:
        """PermissionDenied unless the actor holds `permission` ("app.codename")."""
        if not self.has_perm(permission):
            raise PermissionDenied(
                f"{self.label or self} lacks the permission {permission}.", permission=permission
            )

    def has_scope(self, scope: str) -> bool:
        """Always, unless the actor is an API key that lacks it."""
        return self.type != "api_key" or scope in self.scopes

    def require_scope(self, scope: str) -> None:
        """PermissionDenied unless the key that acts, if one does, holds `scope`."""
        if not self.has_scope(scope):
            raise PermissionDenied(f"The API key lacks the scope {scope}.", scope=scope)

"""What an API key may do: scopes such as "contracts:write", and the permissions each stands for.

A permission is "<app>.<verb>_<model>". Its verb decides who may have it: the same table serves the
scopes of keys and the groups of people. A verb that is not here belongs to nobody.
"""

from collections.abc import Iterable
from functools import cache

from django.apps import apps

READ = frozenset({"view"})
_OPERATE = """
accept activate cancel claim close collect edit hold lift operate poll propose publish record register release
backdate correct request resolve resume retry send sign snooze submit suspend terminate verify void withdraw
"""
OPERATE = frozenset(_OPERATE.split())
APPROVE = frozenset({"approve", "reject", "reopen"})
ADMINISTER = frozenset({"issue", "revoke"})
VERBS = READ | OPERATE | APPROVE | ADMINISTER

RESOURCES = {
    "organizations": ("parties",),
    "contracts": ("contracts",),
    "service": ("contracts.serviceevent",),
    "usage": ("billing",),
    "invoices": ("billing",),
    "wallets": ("billing",),
    "settlements": ("payouts",),
    "payouts": ("payouts",),
    "ledger": ("ledger",),
    "exports": ("console.export",),
    "webhooks": ("webhooks",),
}
SCOPES = {
    **{f"{name}:read": READ for name in RESOURCES},
    **{f"{name}:write": READ | OPERATE for name in RESOURCES},
    "payouts:approve": APPROVE,
    "approvals:read": READ,
}
# What only the platform's own keys may have: scopes, and verbs and permissions within the others.
PLATFORM_ONLY = frozenset({"payouts:approve", "approvals:read"})
PLATFORM_VERBS = APPROVE | {
    "accept",
    "backdate",
    "close",
    "collect",
    "correct",
    "hold",
    "lift",
    "release",
    "verify",
    "void",
}
PLATFORM_PERMISSIONS = frozenset(
    {
        *("contracts.request_platformterms", "contracts.request_bulkplan", "contracts.cancel_bulkplan"),
        *("ledger.request_reopening", "ledger.request_reversal"),
        "payouts.request_giving_up",
    }
)


def permissions_of(scopes: Iterable[str], *, platform: bool) -> frozenset[str]:
    """The Django permissions that these scopes stand for, in a key of the platform or of another."""
    given = frozenset(permission for scope in scopes for permission in _permissions(scope))
    if platform:
        return given
    return frozenset(p for p in given - PLATFORM_PERMISSIONS if verb_of(p) not in PLATFORM_VERBS)


def verb_of(permission: str) -> str:
    return permission.partition(".")[2].partition("_")[0]


@cache
def _permissions(scope: str) -> frozenset[str]:
    verbs = SCOPES.get(scope, frozenset())
    labels = RESOURCES.get(scope.partition(":")[0], ())
    return frozenset(
        f"{label.partition('.')[0]}.{codename}"
        for label in labels
        for codename in declared_permissions(label)
        if codename.partition("_")[0] in verbs
    )


def declared_permissions(label: str) -> list[str]:
    """Codenames of every permission that the models of an app, or one such as "console.export", declare."""
    app, _, only = label.partition(".")
    return [
        codename
        for model in apps.get_app_config(app).get_models()
        if only in ("", model._meta.model_name)
        for codename in (
            *(f"{verb}_{model._meta.model_name}" for verb in model._meta.default_permissions),
            *(codename for codename, _ in model._meta.permissions),
        )
    ]

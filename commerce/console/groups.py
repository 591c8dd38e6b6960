"""Who may do what in the console: five groups, whose permissions follow from the verbs' table.

`migrate` keeps them so (also in an emptied test database): what code says is what the database has.
A permission whose verb is in no table belongs to no group.
"""

from collections.abc import Iterable
from typing import Any

from django.apps import AppConfig, apps
from django.contrib.auth.models import Group, Permission
from django.db import transaction

from commerce.api.scopes import APPROVE, OPERATE, READ, SCOPES, declared_permissions, permissions_of

KERNEL = ("parties", "providers", "outbox", "console", "webhooks", "commerce")
BUSINESS = ("contracts", "billing", "payouts", "ledger", *KERNEL)
ADMINISTRATION = frozenset(
    {
        *(f"auth.{verb}_user" for verb in ("view", "add", "change")),
        "auth.view_group",
        "admin.view_logentry",
        *(f"api.{verb}_apikey" for verb in ("view", "issue", "revoke")),
        "parties.view_organization",
        *(f"contracts.{verb}_product" for verb in ("view", "add", "change")),
    }
)


def permissions_by_group() -> dict[str, frozenset[str]]:
    """ "app.codename" per group. Nobody holds both an operating and an approving verb by one group."""
    viewer = _with_verbs(READ)
    return {
        "viewer": viewer,
        "operator": viewer | _with_verbs(OPERATE),
        "approver": viewer | _with_verbs(APPROVE),
        "admin": ADMINISTRATION,
        "integration": permissions_of(SCOPES, platform=False),
    }


def sync_groups() -> None:
    """Make the groups and give each exactly its permissions."""
    known = {
        f"{label}.{codename}": pk
        for pk, label, codename in Permission.objects.values_list("pk", "content_type__app_label", "codename")
    }
    with transaction.atomic():
        for name, permissions in permissions_by_group().items():
            group, _ = Group.objects.get_or_create(name=name)
            group.permissions.set(known[permission] for permission in permissions if permission in known)


def after_migrate(sender: AppConfig, **_: Any) -> None:
    """Runs once per `migrate` and per emptied test database, when the last app has its permissions."""
    if sender is list(apps.get_app_configs())[-1]:
        sync_groups()


def _with_verbs(verbs: Iterable[str]) -> frozenset[str]:
    return frozenset(
        f"{label}.{codename}"
        for label in BUSINESS
        for codename in declared_permissions(label)
        if codename.partition("_")[0] in verbs
    )

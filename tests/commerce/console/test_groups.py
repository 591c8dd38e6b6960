"""Groups follow the verbs' table: operators operate, approvers approve, administrators move no money."""

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User

from commerce.api.scopes import APPROVE, OPERATE, VERBS, declared_permissions
from commerce.console.demo_users import ensure_demo_users
from commerce.console.groups import BUSINESS, permissions_by_group, sync_groups


def verb(permission: str) -> str:
    return permission.partition(".")[2].partition("_")[0]


def test_every_permission_that_an_app_declares_has_a_verb_of_the_table() -> None:
    unknown = [
        f"{label}.{codename}"
        for label in (*BUSINESS, "api")
        for model in apps.get_app_config(label).get_models()
        for codename, _ in model._meta.permissions
        if codename.partition("_")[0] not in VERBS
    ]
    assert unknown == []


def test_who_operates_does_not_approve_and_who_administers_does_neither() -> None:
    groups = permissions_by_group()
    assert not {p for p in groups["operator"] if verb(p) in APPROVE}
    assert not {p for p in groups["approver"] if verb(p) in OPERATE}
    assert not {p for p in groups["integration"] if verb(p) in APPROVE}
    assert not {p for p in groups["admin"] if p.startswith(("ledger.", "billing.", "payouts.", "outbox."))}
    assert all(verb(p) == "view" for p in groups["viewer"])
    assert "outbox.operate_outboxstream" in groups["operator"]


def test_nobody_may_add_change_or_delete_a_fact() -> None:
    for name, permissions in permissions_by_group().items():
        written = {p for p in permissions if verb(p) in ("add", "change", "delete")}
        if name == "admin":
            assert not {p for p in written if verb(p) == "delete"}
            assert written <= {
                "auth.add_user",
                "auth.change_user",
                "contracts.add_product",
                "contracts.change_product",
            }
        else:
            assert written == set()


def test_migrations_made_the_groups(db: None) -> None:
    held = {
        group.name: {f"{p.content_type.app_label}.{p.codename}" for p in group.permissions.all()}
        for group in Group.objects.prefetch_related("permissions__content_type")
    }
    for name, permissions in permissions_by_group().items():
        known = {p for p in permissions if p.partition(".")[2] in declared_permissions(p.partition(".")[0])}
        assert held[name] == known


@pytest.mark.django_db(transaction=True)
def test_an_emptied_database_has_its_groups_again() -> None:
    assert set(Group.objects.values_list("name", flat=True)) >= {"viewer", "operator", "approver", "admin"}


def test_a_permission_given_by_hand_is_taken_back(db: None) -> None:
    viewer = Group.objects.get(name="viewer")
    viewer.permissions.add(Permission.objects.get(codename="add_user"))
    sync_groups()
    assert not viewer.permissions.filter(codename="add_user").exists()


def test_demo_users_are_made_once_and_repaired(db: None) -> None:
    passwords = ensure_demo_users()
    User.objects.filter(username="operator").update(is_superuser=True, is_active=False)
    assert ensure_demo_users() == passwords
    operator = User.objects.get(username="operator")
    assert operator.check_password("operator-demo-2027")
    assert (operator.is_active, operator.is_superuser) == (True, False)
    assert User.objects.count() == 4

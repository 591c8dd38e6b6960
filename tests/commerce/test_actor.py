"""Who acts decides what is allowed: the system everything, people and keys what they were given."""

from typing import Any

import pytest

from commerce.actor import Actor
from commerce.errors import PermissionDenied

APPROVE = "payouts.approve_payout"


def test_the_system_may_everything_and_is_named() -> None:
    actor = Actor.system("relay")
    assert str(actor) == "system:relay"
    actor.require(APPROVE)


def test_a_key_may_what_its_permissions_say_and_nothing_else() -> None:
    key = Actor(type="api_key", id="1", label="Acme's key", permissions=frozenset({"payouts.view_payout"}))
    assert key.has_perm("payouts.view_payout")
    with pytest.raises(
        PermissionDenied, match=r"Acme's key lacks the permission payouts\.approve_payout"
    ) as no:
        key.require(APPROVE)
    assert (no.value.status, no.value.extra) == (403, {"permission": APPROVE})


def test_only_a_key_needs_scopes(django_user_model: Any) -> None:
    key = Actor(type="api_key", id="1", scopes=frozenset({"wallets:read"}))
    key.require_scope("wallets:read")
    with pytest.raises(PermissionDenied, match="lacks the scope ledger:read"):
        key.require_scope("ledger:read")
    Actor.system("relay").require_scope("ledger:read")
    Actor.for_user(django_user_model(pk=7, username="ann")).require_scope("ledger:read")


def test_a_person_may_what_django_says_whatever_else_is_claimed(django_user_model: Any, db: None) -> None:
    from django.contrib.auth.models import Permission

    user = django_user_model.objects.create_user("ann")
    claimed = Actor(type="user", id=str(user.pk), user=user, permissions=frozenset({APPROVE}))
    assert not claimed.has_perm(APPROVE)
    with pytest.raises(PermissionDenied):
        claimed.require(APPROVE)
    user.user_permissions.add(Permission.objects.get(codename="approve_payout"))
    actor = Actor.for_user(django_user_model.objects.get(pk=user.pk), request_id="r-1")
    actor.require(APPROVE)
    assert (str(actor), actor.label, actor.request_id) == (f"user:{user.pk}", "ann", "r-1")


def test_a_person_who_was_locked_out_may_nothing(django_user_model: Any, db: None) -> None:
    root = django_user_model.objects.create_superuser("root")
    assert Actor.for_user(root).has_perm(APPROVE)
    root.is_active = False
    assert not Actor.for_user(root).has_perm(APPROVE)


def test_an_actor_cannot_be_changed_nor_shows_the_account_behind_it(django_user_model: Any) -> None:
    actor = Actor.for_user(django_user_model(pk=7, username="ann", password="hash"))
    with pytest.raises(AttributeError):
        actor.type = "system"  # type: ignore[misc]
    assert "hash" not in repr(actor)
    assert "user=" not in repr(actor)

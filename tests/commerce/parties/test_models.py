"""Organizations: the single platform, known roles, and the guards in the database."""

import pytest
from django.db import IntegrityError, transaction

from commerce import guards
from commerce.parties.models import Organization

pytestmark = pytest.mark.django_db


def test_the_platform_exists_once() -> None:
    assert Organization.objects.platform().onboarding_status == "active"
    with pytest.raises(IntegrityError), transaction.atomic():
        Organization.objects.create(slug="another", name="Another", roles=["platform"])
    assert Organization.objects.filter(roles__contains=["platform"]).count() == 1


@pytest.mark.parametrize("roles", [[], ["bank"], ["buyer", "bank"]])
def test_roles_are_known_and_not_empty(roles: list[str]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Organization.objects.create(slug="x", name="X", roles=roles)


def test_the_guards_in_the_database_are_those_the_code_declares() -> None:
    assert [name for name in guards.missing() if name.startswith(("parties_", "providers_"))] == []

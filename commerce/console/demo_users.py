"""Four people for trying the console, one per group. They never exist in production."""

from django.conf import settings
from django.contrib.auth.models import Group, User

from commerce.console.groups import sync_groups
from commerce.errors import Conflict

NAMES = ("viewer", "operator", "approver", "admin")


def ensure_demo_users() -> dict[str, str]:
    """Make or repair the users and return their passwords by name. Conflict in production."""
    if settings.PRODUCTION:
        raise Conflict("Demo users do not exist in production.", code="not_in_production")
    sync_groups()
    passwords = {name: f"{name}-demo-2027" for name in NAMES}
    for name, password in passwords.items():
        user, _ = User.objects.get_or_create(username=name, defaults={"email": f"{name}@example.com"})
        if not user.check_password(password):
            user.set_password(password)
        user.is_staff, user.is_active, user.is_superuser = True, True, False
        user.save()
        user.groups.set([Group.objects.get(name=name)])
    return passwords

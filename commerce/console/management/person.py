"""Who sits at the terminal: what only a named person may do is done by somebody who signed in."""

import sys
from getpass import getpass

from django.contrib.auth import authenticate

from commerce.actor import Actor
from commerce.errors import PermissionDenied


def signed_in(username: str) -> Actor:
    """By name and password: a terminal is asked, else the first line of standard input."""
    prompt = f"Password of {username}: "
    password = getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    user = authenticate(username=username, password=password)
    if user is None:
        raise PermissionDenied("The name or the password is not right.", code="not_signed_in")
    return Actor.for_user(user)

"""The product's settings, and the handlers whose effects are counted."""

from commerce.settings import *  # noqa: F403
from commerce.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.crashes.outbox"]

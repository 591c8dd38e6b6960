"""The product's settings and django-hordak, in a database of their own."""

from commerce.settings import *  # noqa: F403
from commerce.settings import DATABASE_OWNER, DATABASES, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "mptt", "hordak"]
DATABASES = {"default": {**DATABASE_OWNER, "NAME": DATABASES["default"]["NAME"]}}
HORDAK_INTERNAL_CURRENCY = DEFAULT_CURRENCY = "USD"
CURRENCIES = ["USD"]

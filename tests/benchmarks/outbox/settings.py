"""The product's settings and the benchmark's handlers; what else listens, listens to other types."""

from commerce.settings import *  # noqa: F403
from commerce.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.benchmarks.outbox"]

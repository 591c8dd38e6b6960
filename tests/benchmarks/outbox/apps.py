"""An application only because handlers are subscribed when applications are loaded."""

from django.apps import AppConfig


class OutboxBenchmarkConfig(AppConfig):
    name = "tests.benchmarks.outbox"
    label = "outbox_benchmark"

    def ready(self) -> None:
        from tests.benchmarks.outbox import handlers  # noqa: F401

"""`/livez` and `/readyz`, answered before sessions, hosts and authentication are looked at.

`/livez` touches nothing. `/readyz` answers 200 or 503 with one line per check: the database, the
migrations, the broker, the guards and rights in the database, and the age of beat's heartbeat.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone

from commerce import guards, roles
from commerce.celery import app
from commerce.invariants import Finding, invariant
from commerce.models import Heartbeat

OLDEST_HEARTBEAT = timedelta(seconds=120)


class HealthMiddleware:
    """Answers the two probes itself."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/livez":
            return HttpResponse("alive\n", content_type="text/plain")
        if request.path == "/readyz":
            results = readiness()
            healthy = all(result == "ok" for result in results.values())
            return JsonResponse({"ready": healthy, "checks": results}, status=200 if healthy else 503)
        return self.get_response(request)


def readiness() -> dict[str, str]:
    """Each check's name with "ok" or a sentence."""
    checks: dict[str, Callable[[], str]] = {
        "database": _database,
        "migrations": _migrations,
        "guards": _guards,
        "rights": _rights,
        "broker": _broker,
        "heartbeat": _heartbeat,
    }
    results = {}
    for name, check in checks.items():
        try:
            results[name] = check()
        except Exception as error:  # a probe reports every failure and raises none
            results[name] = f"{type(error).__name__} while checking"
            if name == "database":
                break
    return results


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "ok"


def _migrations() -> str:
    executor = MigrationExecutor(connection)
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return f"{len(waiting)} migrations are not applied" if waiting else "ok"


def _guards() -> str:
    gone = guards.missing()
    return f"missing in the database: {', '.join(gone)}" if gone else "ok"


def _rights() -> str:
    return "; ".join(map(str, roles.differences())) or "ok"


def _broker() -> str:
    with app.connection_for_write() as broker:
        broker.ensure_connection(max_retries=0)
    return "ok"


def _heartbeat() -> str:
    beat = Heartbeat.objects.filter(name="beat").first()
    if beat is None:
        return "beat has never run"
    age = timezone.now() - beat.beaten_at
    return "ok" if age < OLDEST_HEARTBEAT else f"beat was last seen {int(age.total_seconds())} s ago"


@invariant("I10", "The database enforces what the models declare")
def declarations_are_enforced() -> Iterator[Finding]:
    for guard in guards.missing():
        yield Finding(f"guard:{guard}", "Declared in the code, and not as declared in the database.")
    for difference in roles.differences():
        yield Finding(f"role:{difference.role}", f"{difference}, against what is declared.")
    for function in roles.functions_with_an_open_path():
        yield Finding(f"function:{function}", "Runs as the owner without a fixed search_path.")

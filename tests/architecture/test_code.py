"""Rules of the code base that no linter knows, read off its syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django_fsm import FSMFieldMixin

from commerce.celery import app as celery
from commerce.outbox import catalog, registry

ROOT = Path(settings.BASE_DIR)
APPS = ("commerce", "contracts", "ledger", "billing", "payouts")
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for name in APPS
    for path in sorted((ROOT / name).rglob("*.py"))
    if "migrations" not in path.parts
}
SHIPPED = {name: tree for name, tree in SOURCES.items() if not name.startswith("commerce/sandbox/")}
# Python programs around the servers, without models: there `resolve` means a path.
PROGRAMS = ("commerce/bootstrap.py", "commerce/processes.py", "commerce/settings.py", "commerce/embedded/")
# Where business time enters: once per request, page, event, task or command, and handed on as `at`.
DOORS = (
    "/admin", "/api", "/handlers.py", "/tasks.py", "/management/", "/views.py", "/invariants.py",
    "commerce/console/", "commerce/clock.py", "commerce/checks.py",
)  # fmt: skip
MONEY_NAMES = ("minor", "amount", "balance", "total", "price", "fee", "tax", "net")
FSM_FIELDS = [
    (model, field)
    for model in apps.get_models()
    for field in model._meta.concrete_fields
    if isinstance(field, FSMFieldMixin)
]
TRANSITIONS = {t.name for model, field in FSM_FIELDS for t in field.get_all_transitions(model)}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def imported(tree: ast.AST) -> set[str]:
    """Names that stand for modules or for what came out of one."""
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def found(places: Iterator[tuple[str, ast.AST]]) -> list[str]:
    return [f"{name}:{getattr(node, 'lineno', 0)} {ast.unparse(node)[:90]}" for name, node in places]


def test_nobody_calls_a_transition_but_the_choke_point() -> None:
    def direct() -> Iterator[tuple[str, ast.AST]]:
        for name, tree in SHIPPED.items():
            if name.startswith(PROGRAMS):
                continue
            modules = imported(tree)
            own = set() if name.endswith("models.py") else {"self"}
            for call in calls(tree):
                if not (isinstance(call.func, ast.Attribute) and call.func.attr in TRANSITIONS):
                    continue
                receiver = call.func.value
                if not (isinstance(receiver, ast.Name) and receiver.id in modules | own):
                    yield name, call

    assert {"approve", "pay", "activate"} <= TRANSITIONS
    assert found(direct()) == []


def test_nobody_writes_a_state_by_hand() -> None:
    columns = {field.name for _, field in FSM_FIELDS}

    def by_hand() -> Iterator[tuple[str, ast.AST]]:
        for name, tree in SHIPPED.items():
            if name.startswith((*PROGRAMS, "commerce/api/")):  # an HTTP status is no state
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign):
                    targets = [t for t in node.targets if isinstance(t, ast.Attribute)]
                    if any(target.attr in columns for target in targets):
                        yield name, node
                elif (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in ("update", "bulk_update")
                    and columns & {keyword.arg for keyword in node.keywords}
                ):
                    yield name, node

    # Our own organization is made active; nobody onboards it.
    assert [place.partition(":")[0] for place in found(by_hand())] == ["commerce/parties/models.py"]


def test_a_task_is_a_wake_up_and_never_an_alarm_clock() -> None:
    delayed = [
        (name, call)
        for name, tree in SOURCES.items()
        for call in calls(tree)
        if {"eta", "countdown"} & {keyword.arg for keyword in call.keywords}
    ]
    assert found(iter(delayed)) == []


def test_the_machines_clock_is_read_in_one_place() -> None:
    def reads() -> Iterator[tuple[str, ast.AST]]:
        for name, tree in SOURCES.items():
            if name in ("commerce/clock.py", "commerce/sandbox/clock.py"):
                continue
            for call in calls(tree):
                text = ast.unparse(call.func)
                if text.endswith(("datetime.now", "utcnow", "date.today", "datetime.today")):
                    yield name, call

    assert found(reads()) == []


def test_business_time_enters_through_doors_only() -> None:
    def inside() -> Iterator[tuple[str, ast.AST]]:
        for name, tree in SHIPPED.items():
            if any(door in f"/{name}" for door in DOORS):
                continue
            for call in calls(tree):
                if ast.unparse(call.func) == "clock.now":
                    yield name, call
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module == "commerce.clock":
                    yield name, node

    assert found(inside()) == []


def test_rules_are_pure() -> None:
    """No models, no settings, no clock: the same arguments give the same answer."""
    impure = [
        (name, node)
        for name, tree in SHIPPED.items()
        if "/rules/" in name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
        if module.split(".")[0] in ("django", "rest_framework", "httpx", "random", "time")
        or (module.startswith("commerce") and module.split(".")[1:2] not in (["money"], ["errors"], ["ids"]))
    ]
    assert found(iter(impure)) == []


def test_only_services_speak_to_providers() -> None:
    def speaking() -> Iterator[tuple[str, ast.AST]]:
        for name, tree in SHIPPED.items():
            if name.startswith("commerce/providers/") or "/services" in name:
                continue
            for node in ast.walk(tree):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                names = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                clients = ("commerce.providers.openmeter", "commerce.providers.modern_treasury", "httpx")
                if module.startswith(clients) or any(n.startswith(clients) for n in names):
                    yield name, node
                if module == "commerce.providers" and {"openmeter", "modern_treasury"} & set(names):
                    yield name, node

    assert found(speaking()) == []


def test_no_float_touches_money() -> None:
    def is_money(node: ast.AST) -> bool:
        text = ast.unparse(node).lower()
        return any(name in text for name in MONEY_NAMES)

    def floating() -> Iterator[tuple[str, ast.AST]]:
        for name, tree in SOURCES.items():
            if name == "commerce/console/charts.py":  # pixels
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "float" and is_money(node):
                    yield name, node
                elif isinstance(node, ast.BinOp):
                    exact = "Decimal" in ast.unparse(node) or "Fraction" in ast.unparse(node)
                    divides = isinstance(node.op, ast.Div) and not exact
                    literal = any(
                        isinstance(side, ast.Constant) and isinstance(side.value, float)
                        for side in (node.left, node.right)
                    )
                    if (literal and is_money(node)) or (divides and is_money(node.left)):
                        yield name, node

    assert found(floating()) == []


def test_the_timetable_and_the_tasks_are_the_same() -> None:
    celery.loader.import_default_modules()
    registered = {name for name in celery.tasks if not name.startswith("celery.")}
    scheduled = {entry["task"] for entry in celery.conf.beat_schedule.values()}
    assert scheduled == registered
    assert all(entry["options"]["expires"] >= 1 for entry in celery.conf.beat_schedule.values())
    assert all(entry["schedule"] > 0 for entry in celery.conf.beat_schedule.values())


def test_every_event_type_that_is_written_is_in_the_catalogue() -> None:
    literal = {
        call.args[2].value
        for tree in SHIPPED.values()
        for call in calls(tree)
        if isinstance(call.func, ast.Name)
        and call.func.id == "append"
        and len(call.args) > 2
        and isinstance(call.args[2], ast.Constant)
    }
    declared = {
        transition.custom["event"]
        for model, field in FSM_FIELDS
        for transition in field.get_all_transitions(model)
        if "event" in transition.custom
    }
    assert literal
    assert declared
    assert literal | declared <= {type_.name for type_ in catalog.event_types()}


def test_event_types_say_what_happened_to_what() -> None:
    odd = [t for t in registry.known_types() if not t.replace("_", "a").replace(".", "a", 1).isalpha()]
    assert odd == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name
        for name, tree in SOURCES.items()
        if tree.body and not ast.get_docstring(tree)  # type: ignore[arg-type]
    ]
    assert silent == []


@pytest.mark.parametrize("name", APPS)
def test_no_file_is_too_long_to_read(name: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / name).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 650
    }
    assert long == {}

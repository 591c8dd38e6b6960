"""The documents name what is there: links, commands, variables and states are compared with the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import get_commands
from django_fsm import FSMFieldMixin
from drf_spectacular.generators import SchemaGenerator

from commerce.celery import app as celery
from commerce.invariants import REGISTRY

ROOT = Path(__file__).parents[2]
FORBIDDEN = re.compile(r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|/(?:home|Users)/[a-z]+/")
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=[str(p.relative_to(ROOT)) for p in DOCUMENTS])


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_document
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(linked.read_text()), f"{target} names no heading"


@every_document
def test_commands_exist(path: Path) -> None:
    named = set(re.findall(r"manage\.py ([a-z_]+)", path.read_text()))
    assert named <= get_commands().keys()


def test_every_decision_is_linked_or_listed() -> None:
    """A decision that no page leads to is not found by who needs it."""
    linked = "".join(path.read_text() for path in DOCUMENTS if "decisions" not in path.parts)
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert path.name in linked, f"nothing links to {path.name}"


def test_the_findings_table_has_every_invariant_that_is_checked() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for code in {invariant.code for invariant in REGISTRY}:
        assert f"| {code} |" in text, code


def test_the_timetable_has_every_task() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("## Tasks and the timetable")[2].partition("\n## ")[0]
    assert {entry["task"] for entry in celery.conf.beat_schedule.values()} <= set(
        re.findall(r"`([\w.]+)`", table)
    )


def test_the_api_of_the_ledger_is_listed_with_its_parameters() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    table = text.partition("## Ledger")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    for path, operations in SchemaGenerator().get_schema(request=None, public=True)["paths"].items():
        if not path.startswith("/api/v1/ledger/") or "get" not in operations:
            continue
        address = re.sub(r"{\w+}", "{id}", path.removeprefix("/api/v1/ledger/"))
        (row,) = (row for row in rows if f"`{address}`" in row.split("|")[1])
        paging = {"cursor", "page_size"}
        parameters = {p["name"] for p in operations["get"]["parameters"] if p["in"] == "query"} - paging
        assert parameters <= set(re.findall(r"`(\w+)`", row.split("|")[3])), address


def declared_transitions() -> Iterator[tuple[str, set[tuple[str, str, str, str, str]]]]:
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, FSMFieldMixin):
                order = [str(value) for value, _ in field.choices]
                moves = list(field.get_all_transitions(model))
                yield (
                    f"{model._meta.label}.{field.name}",
                    {
                        (
                            move.name,
                            ", ".join(
                                sorted({str(m.source) for m in moves if m.name == move.name}, key=order.index)
                            ),
                            str(move.target),
                            move.custom.get("event", ""),
                            str(move.permission or ""),
                        )
                        for move in moves
                    },
                )


@pytest.mark.parametrize(
    ("label", "declared"),
    list(declared_transitions()),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_state_tables_are_those_of_the_code(
    label: str, declared: set[tuple[str, str, str, str, str]]
) -> None:
    text = (ROOT / "docs" / "domain.md").read_text()
    assert f"### `{label}`" in text
    section = text.split(f"### `{label}`")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| ?(.*?) \| ?(.*?) \|$", section, re.MULTILINE)
    written = {tuple(cell.strip(" `") for cell in row) for row in rows}
    assert written == declared


def test_no_file_names_a_home_folder_or_a_package_registry() -> None:
    kinds = {".py", ".md", ".toml", ".yml", ".html", ".css", ".lock", ".example", ""}
    for top in ROOT.iterdir():
        if top.name in (".git", ".venv", "var", "staticfiles") or top.name.endswith("_cache"):
            continue
        for path in [top] if top.is_file() else top.rglob("*"):
            if path.is_file() and path.suffix in kinds and path != Path(__file__):
                found = FORBIDDEN.search(path.read_text(errors="replace"))
                assert not found, f"{path.relative_to(ROOT)} names {found[0]}"

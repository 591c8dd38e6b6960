"""The simulators as a process of their own, and the settings that point the clients at it."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project

KEYS = {
    "MODERN_TREASURY_ORGANIZATION_ID": "organization",
    "MODERN_TREASURY_API_KEY": "test-key",
    "MODERN_TREASURY_WEBHOOK_KEY": "webhook-key",
    "MODERN_TREASURY_INTERNAL_ACCOUNT_ID": "0f8e3719-3dfd-4613-9bbf-c0333781b59f",
    "OPENMETER_TOKEN": "token",
}


class Sandbox:
    """One running simulator process; `control` speaks to its control API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}/__control__/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def effects(self, provider: str, kind: str) -> list[dict[str, Any]]:
        return self.control("GET", "effects")[provider].get(kind, [])

    def fault(self, provider: str, method: str, path: str, kind: str, **more: Any) -> None:
        rule = {"provider": provider, "method": method, "path": path, "kind": kind, "count": 1, **more}
        self.control("POST", "faults", rule)


@pytest.fixture(scope="session")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    clock = folder / "clock"
    clock.write_text("2027-03-01T00:00:00+00:00")
    process = subprocess.Popen(
        [sys.executable, "-m", "commerce.sandbox.server", "--port", "0", "--dir", str(folder)],
        cwd=project.BASE_DIR,
        env={**os.environ, **KEYS, "CLOCK_FILE": str(clock), "PUBLIC_URL": ""},
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
    )
    assert process.stdout
    announced = process.stdout.readline()
    assert "http://" in announced, (folder / "log").read_text()
    yield Sandbox(announced.split()[-1])
    process.terminate()
    process.wait(10)


@pytest.fixture
def sandbox(sandbox_process: Sandbox, settings: Any, tmp_path: Path) -> Iterator[Sandbox]:
    """The simulators, empty and without faults, with our clients pointed at them."""
    sandbox_process.control("POST", "reset", {})
    for name, value in KEYS.items():
        if name != "MODERN_TREASURY_WEBHOOK_KEY":
            setattr(settings, name, value)
    settings.MODERN_TREASURY_WEBHOOK_KEYS = [KEYS["MODERN_TREASURY_WEBHOOK_KEY"]]
    settings.MODERN_TREASURY_BASE_URL = f"{sandbox_process.url}/modern-treasury"
    settings.OPENMETER_BASE_URL = f"{sandbox_process.url}/openmeter"
    yield sandbox_process
    sandbox_process.control("DELETE", "faults")


@pytest.fixture
def organization_of(db: None) -> Callable[..., Any]:
    from commerce.parties.models import Organization

    def make(*roles: str, name: str = "Northwind", **more: Any) -> Organization:
        return Organization.objects.create(name=name, slug=name.lower(), roles=list(roles), **more)

    return make

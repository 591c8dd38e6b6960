"""Configuration is documented as it is read: .env.example, compose file and locks agree with the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from commerce.embedded import REPOSITORY

READ = re.compile(r"""(?:env\.\w+\(|environ\.get\(|environ\[|getenv\()f?["']([A-Z][A-Z_]+)["']""")
DOCUMENTED = re.compile(r"^#?([A-Z][A-Z_]+)=(.*)$", re.MULTILINE)
DJANGO_OWN = {"DJANGO_SETTINGS_MODULE"}


def _example() -> str:
    return (REPOSITORY / ".env.example").read_text()


def _read_by_the_code() -> set[str]:
    names: set[str] = set()
    for app in ("commerce", "contracts", "ledger", "billing", "payouts"):
        for source in (REPOSITORY / app).rglob("*.py"):
            names |= set(READ.findall(source.read_text()))
    return names - DJANGO_OWN


def test_every_variable_that_is_read_is_documented_and_no_other() -> None:
    documented = {name for name, _ in DOCUMENTED.findall(_example())}
    assert documented == _read_by_the_code() | {"MODERN_TREASURY_API_KEY", "MODERN_TREASURY_ORGANIZATION_ID"}


def test_the_example_as_it_stands_is_a_valid_configuration() -> None:
    values = dict(re.findall(r"^([A-Z_]+)=(.*)$", _example(), re.MULTILINE))
    check = subprocess.run(
        [sys.executable, "manage.py", "check", "--fail-level", "WARNING"],
        cwd=REPOSITORY,
        env=os.environ | values,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stderr


def test_compose_runs_every_process_with_documented_variables() -> None:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    assert {"db", "redis", "web", "worker", "beat", "sandbox"} <= set(compose["services"])
    documented = {name for name, _ in DOCUMENTED.findall(_example())}
    for name, service in compose["services"].items():
        if name not in ("db", "redis"):
            assert set(service["environment"]) <= documented, name


def test_both_locks_pin_the_same_versions_by_hash_and_name_no_address() -> None:
    pins = {}
    for name in ("requirements.lock", "requirements-production.lock"):
        text = Path(REPOSITORY / name).read_text()
        assert "://" not in text
        pins[name] = set(re.findall(r"^\S+==\S+", text, re.MULTILINE))
        assert text.count("--hash=sha256:") >= len(pins[name])
    assert pins["requirements-production.lock"] < pins["requirements.lock"]
    assert not any(pin.startswith(("pytest", "playwright")) for pin in pins["requirements-production.lock"])

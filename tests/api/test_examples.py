"""The examples of the documents, sent as they are written there, and what the documents list."""

import re
import shlex
from pathlib import Path

from drf_spectacular.generators import SchemaGenerator

from contracts.models import Contract
from contracts.rules.operations import REGISTRY
from tests.api.conftest import Api, Deal

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
CONTRACTS = TEXT.partition("## Contracts\n")[2].partition("\n## ")[0]


def commands(text: str) -> list[str]:
    """Every `curl` of the shell blocks, whole."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return ["curl " + one for block in blocks for one in re.split(r"^curl ", block, flags=re.MULTILINE)[1:]]


def test_every_example_of_contracts_works_one_after_another(platform: Api, ours: Deal) -> None:
    found = commands(CONTRACTS)
    methods = []
    for command in found:
        version = Contract.objects.get(pk=ours.contract.pk).version
        known = {
            "CONTRACT": ours.contract.pk,
            "LINE": ours.servers,
            "VERSION": version,
            "API/": "",
            "KEY": "",
        }
        for name, value in known.items():
            command = command.replace(f"${name}", str(value))
        words = shlex.split(command.partition("\n\n")[0], comments=True)
        headers = dict(words[place + 1].split(": ", 1) for place, word in enumerate(words) if word == "-H")
        headers = {name: value for name, value in headers.items() if name != "Authorization"}
        body = words[words.index("-d") + 1] if "-d" in words else None
        methods.append("POST" if body else "GET")
        answer = platform(methods[-1], words[1], raw=body or "", **headers)
        assert answer.status_code in (200, 201), (command, answer.content)
    assert methods == ["POST", "POST", "POST", "GET", "GET", "GET"]
    assert Contract.objects.get(pk=ours.contract.pk).version == ours.contract.version + 2


def test_every_operation_of_contracts_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", CONTRACTS.partition("The\npayload")[0]))
    assert set(REGISTRY) - {"create"} <= listed


def test_every_address_below_a_contract_is_listed_with_its_parameters() -> None:
    rows = [line for line in CONTRACTS.splitlines() if line.startswith("| `")]
    for path, operations in SchemaGenerator().get_schema(request=None, public=True)["paths"].items():
        address = path.removeprefix("/api/v1/contracts/{id}/")
        if address == path or not address:
            continue
        [row] = [row for row in rows if f"`{address}`" in row.replace("`GET ", "`").replace("`POST ", "`")]
        for operation in operations.values():
            query = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
            missing = query - {"cursor", "page_size"} - set(re.findall(r"`(\w+)", row))
            assert not missing, (address, missing)

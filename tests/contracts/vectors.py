"""Published worked examples as data: `examples()` hands them to tests and remembers which are tested.

vectors.json has the numbers and where they come from; `ours` is what we answer where we differ knowingly.
"""

import json
from pathlib import Path
from typing import Any

import pytest

Vector = dict[str, Any]

VECTORS: dict[str, Vector] = {
    vector["id"]: vector
    for vector in json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
}
TESTED: set[str] = set()
# Examples of the same collection that are not a contract's business, and whose they are.
ELSEWHERE = {
    "KB-23": "billing: which billing status follows from an unpaid invoice's age",
    "KB-24": "billing: on which days a collection is tried again",
    "KB-25": "billing: what an adjustment or a refund leaves of an invoice's balance",
    "LA-10": "billing: an invoice at a threshold of usage",
}


def examples(*ids: str) -> pytest.MarkDecorator:
    """Parametrise a test by `vector`, one case per id, named after the id and the source."""
    TESTED.update(ids)
    return pytest.mark.parametrize(
        "vector", [pytest.param(VECTORS[id_], id=f"{id_} {VECTORS[id_]['source']}") for id_ in ids]
    )

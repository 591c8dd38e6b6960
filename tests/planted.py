"""Bugs on purpose: a test of what has to be noticed plants one and must fail."""

import inspect
import sys
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

import pytest


@dataclass(frozen=True)
class Bug:
    """In the text of a statement, of a function or of a class's method, each `old` becomes its `new`."""

    name: str
    module: Any
    attribute: str
    changes: tuple[tuple[str, str], ...]

    def __str__(self):
        return self.name.replace(" ", "_")

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        value = getattr(self.module, self.attribute)
        text = value if isinstance(value, str) else dedent(inspect.getsource(value))
        for old, new in self.changes:
            assert text.count(old) == 1, f"{old!r} is not there once: the bug has to follow the relay"
            text = text.replace(old, new)
        if not isinstance(value, str):
            exec(text, vars(sys.modules[value.__module__]), made := {})
        patch.setattr(self.module, self.attribute, text if isinstance(value, str) else made[self.attribute])

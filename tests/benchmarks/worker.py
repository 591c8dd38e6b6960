"""One side of a comparison as a process of its own, with its own settings and database.

The benchmark asks in JSON lines, `{"do": function, ...arguments}`, and gets one line for each; what
the functions print is not among them.
"""

import importlib
import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any


class Worker:
    """The functions of `module`, called in a process that has `settings` and `database`."""

    def __init__(self, module: str, *, settings: str, database: str) -> None:
        own = {"DJANGO_SETTINGS_MODULE": settings, "DATABASE_NAME": database, "STATEMENT_TIMEOUT_MS": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, module],
            env=os.environ | own,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{do} failed: see above.")
        return json.loads(answer)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=60)


def serve(module: str) -> None:
    import django

    django.setup()
    answers, sys.stdout = sys.stdout, sys.stderr
    functions = importlib.import_module(module)
    for line in sys.stdin:
        arguments = json.loads(line)
        answer = getattr(functions, arguments.pop("do"))(**arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])

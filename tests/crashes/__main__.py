"""`python -m tests.crashes ledger [--rounds N]` and `outbox [--kills N] [--restarts N] [--wipes N]`.

The ledger's server gets SIGKILL while it is written to; the relay's workers, its server and its broker
while it delivers. Exit code 3: something was lost, doubled, out of order or is otherwise wrong, or a
control that must fail has not.
"""

import argparse
import json
import random
import sys
from typing import Any

from tests.benchmarks import server
from tests.crashes import rounds
from tests.crashes.outbox import run as outbox

WRONG = 3
SETTINGS = {
    **server.SETTINGS,
    "shared_buffers": "128MB",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "30s",
}


def main() -> int:
    arguments = _arguments()
    dice = random.Random(arguments.seed)
    try:
        with server.running(f"crashes-{arguments.name}", SETTINGS) as postgres:
            if arguments.name == "ledger":
                report = rounds.run(postgres, arguments.rounds, dice)
            else:
                report = outbox.run(
                    postgres,
                    kills=arguments.kills,
                    restarts=arguments.restarts,
                    wipes=arguments.wipes,
                    dice=dice,
                )
    except server.Busy as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2) if arguments.json else _lines(report))
    return 0 if report["sound"] else WRONG


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    ledger = names.add_parser("ledger")
    ledger.add_argument("--rounds", type=int, default=50)
    relay = names.add_parser("outbox")
    relay.add_argument("--kills", type=int, default=200, help="of workers")
    relay.add_argument("--restarts", type=int, default=50, help="of PostgreSQL")
    relay.add_argument("--wipes", type=int, default=5, help="of Redis")
    for one in (ledger, relay):
        one.add_argument("--seed", type=int, default=0, help="of the moments at which something is killed")
        one.add_argument("--json", action="store_true")
    return parser.parse_args()


def _lines(report: dict[str, Any]) -> str:
    return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in report.items())


if __name__ == "__main__":
    sys.exit(main())

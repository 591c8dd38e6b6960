"""One of several processes that write to the same few accounts; a seed makes it the same each time.

`python -m tests.ledger.writer NUMBER TURNS` says when it is ready, begins when it is told to, and
answers what it moved, account by account, as one line of JSON.
"""

import json
import random
import sys
from collections import Counter
from uuid import UUID

import django


def main(number: int, turns: int) -> None:
    django.setup()
    from django.db import connection

    connection.ensure_connection()
    print("ready", flush=True)
    order = json.loads(sys.stdin.readline())
    answer = _write(number, turns, {name: UUID(owner) for name, owner in order.items()})
    print(json.dumps(answer), flush=True)


def _write(number: int, turns: int, owners: dict[str, UUID]) -> dict:
    from commerce.errors import InsufficientFunds
    from ledger import services
    from ledger.rules.recipes import Entry
    from tests.ledger.conftest import ACTOR, AT, usd

    accounts = [
        (owners["platform"], "CASH_BANK"),
        (owners["platform"], "PLATFORM_FEES"),
        (owners["acme"], "AVAILABLE"),
        (owners["northwind"], "AVAILABLE"),
        (owners["northwind"], "PAYABLE"),
    ]
    dice, moved, refused = random.Random(number), Counter(), 0

    def legs(payer, payee, cents):
        amount = usd(f"0.{cents:02}")
        return [Entry(*accounts[payer], amount, "debit"), Entry(*accounts[payee], amount, "credit")]

    def move(payer, payee, cents):
        moved[payer] -= cents
        moved[payee] += cents

    def draw():
        return *dice.sample(range(5), 2), dice.randrange(10, 99)

    for turn in range(turns):
        key, what, shape = f"{number}:{turn}", dice.randrange(5), draw()
        call = {"at": AT, "actor": ACTOR}
        try:
            if what == 0:
                shapes = [shape, draw(), draw()]
                postings = [
                    services.Posting(legs(*s), f"{key}:{n}", "t", "commit", AT) for n, s in enumerate(shapes)
                ]
                services.post_all(postings=postings, actor=ACTOR)
                for each in shapes:
                    move(*each)
            elif what == 1:
                shapes = [shape, draw(), draw(), draw()]
                groups = [
                    [services.Posting(legs(*s), f"{key}:{n}", "t", "commit", AT)]
                    for n, s in enumerate(shapes)
                ]
                for each, rows in zip(shapes, services.post_groups(groups=groups, actor=ACTOR), strict=True):
                    if isinstance(rows, list):
                        move(*each)
                    elif isinstance(rows, InsufficientFunds):
                        refused += 1
                    else:
                        raise rows
            elif what == 2:
                pending = services.post_pending(
                    entries=legs(*shape), key=key, source="t", recipe="commit", **call
                )
                less = (*shape[:2], dice.randrange(5, shape[2]))
                services.settle_pending(
                    transaction=pending, key=f"{key}:settled", entries=legs(*less), **call
                )
                move(*less)
            elif what == 3:
                row = services.post(entries=legs(*shape), key=key, source="t", recipe="commit", **call)
                move(*shape)
                back = (shape[1], shape[0], dice.randrange(1, shape[2]))
                services.reverse(
                    transaction=row, key=f"{key}:back", entries=legs(*back), reason="part", **call
                )
                move(*back)
            else:
                for _ in range(2):
                    services.post(entries=legs(*shape), key=key, source="t", recipe="commit", **call)
                move(*shape)
        except InsufficientFunds:
            refused += 1
    return {"moved": [moved[place] for place in range(5)], "refused": refused}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

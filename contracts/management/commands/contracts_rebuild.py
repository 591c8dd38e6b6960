"""`manage.py contracts_rebuild`: fold every log again, compare with the rows, swap what a newer fold says.

Contracts are taken in the order of their ids, in parts that processes share; the number up to which all
is done is said as it goes, and `--after` goes on from there.
"""

import multiprocessing
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

from django.db import connection

from commerce.errors import NotFound
from commerce.management.ops import Exit, OpsCommand, positive
from contracts.models import Contract
from contracts.services import rebuild_contract, verify_log

PART = 200


@dataclass
class Found:
    """What was found in one part, and the last number of it."""

    checked: int = 0
    through: str = ""
    differed: list[dict[str, Any]] = field(default_factory=list)
    tampered: list[dict[str, Any]] = field(default_factory=list)


class Command(OpsCommand):
    help = "Fold contracts from their logs again, compare, and verify the logs' hashes."
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("numbers", nargs="*", help="contract numbers; all of them by default")
        parser.add_argument("--limit", type=positive, help="at most so many contracts")
        parser.add_argument("--after", metavar="NUMBER", help="go on after this contract")
        parser.add_argument("--workers", type=positive, default=1, help="so many processes (default 1)")
        parser.add_argument("--dry-run", action="store_true", help="compare only")
        parser.add_argument(
            "--accept",
            default="",
            metavar="REASON",
            help="put right rows that differ without a newer fold, too",
        )

    def run(self, **options: Any) -> Exit:
        work = partial(_rebuild, actor=self.actor, accept=options["accept"], dry_run=options["dry_run"])
        total = Found()
        for found in _each(work, _parts(options), options["workers"]):
            total.checked += found.checked
            total.differed += found.differed
            total.tampered += found.tampered
            self.say(f"{total.checked} contracts, through {found.through}")
        left = [row for row in total.differed if not row["swapped"]]
        lines = [
            f"{total.checked} contracts checked, {len(total.differed)} differed, {len(left)} left so, "
            f"{len(total.tampered)} logs tampered with",
            *(
                f"  {row['number']}: {', '.join(row['columns'])}{'' if row['swapped'] else ' (not swapped)'}"
                for row in total.differed
            ),
            *(f"  {row['number']}: edit #{row['seq']} does not match its hash" for row in total.tampered),
        ]
        report = {"checked": total.checked, "differed": total.differed, "tampered": total.tampered}
        self.show(report, "\n".join(lines))
        return Exit.FINDINGS if left or total.tampered else Exit.DONE


def _parts(options: dict[str, Any]) -> Iterator[tuple[tuple[UUID, str], ...]]:
    contracts = Contract.objects.order_by("id")
    if options["numbers"]:
        contracts = contracts.filter(number__in=options["numbers"])
    if options["after"]:
        last = Contract.objects.filter(number=options["after"]).first()
        if last is None:
            raise NotFound(f"There is no contract {options['after']}.")
        contracts = contracts.filter(pk__gt=last.pk)
    rows = contracts.values_list("pk", "number").iterator(chunk_size=PART)
    wanted = islice(rows, options["limit"])
    return iter(lambda: tuple(islice(wanted, PART)), ())


def _each(work: Any, parts: Iterator[Sequence[tuple[UUID, str]]], workers: int) -> Iterator[Found]:
    """In the order of the parts, so that "through" is true."""
    if workers < 2:
        yield from map(work, parts)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=fork, initializer=_own_connection) as pool:
        yield from pool.map(work, list(parts))


def _own_connection() -> None:
    """A child leaves its parent's connection alone."""
    connection.connection = None


def _rebuild(part: Sequence[tuple[UUID, str]], **how: Any) -> Found:
    found = Found(len(part), part[-1][1])
    for pk, number in part:
        if seq := verify_log(pk):
            found.tampered.append({"number": number, "seq": seq})
        rebuilt = rebuild_contract(contract_id=pk, **how)
        if rebuilt.changed:
            found.differed.append({"number": number, "columns": rebuilt.changed, "swapped": rebuilt.swapped})
    return found

"""`manage.py contracts_schedule run|list|plan`: what contracts are scheduled for, and doing it now."""

from argparse import ArgumentParser
from typing import Any

from commerce import clock
from commerce.errors import NotFound
from commerce.management.ops import Exit, OpsCommand, positive
from contracts import services
from contracts.models import Contract, ScheduledCommand
from contracts.rules.schema import instant

Json = dict[str, Any]


class Command(OpsCommand):
    help = "Do what is due, list what is scheduled, or plan again what the logs imply."
    writes = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=["run", "list", "plan"])
        parser.add_argument("numbers", nargs="*", help="contract numbers, for list and plan; all by default")
        parser.add_argument("--status", choices=ScheduledCommand.Status.values, help="for list")
        parser.add_argument("--due", action="store_true", help="for list: only what is due now")
        parser.add_argument(
            "--limit", type=positive, default=500, help="at most so many commands or contracts"
        )

    def run(self, **options: Any) -> Exit:
        numbers = options["numbers"]
        unknown = set(numbers) - {
            *Contract.objects.filter(number__in=numbers).values_list("number", flat=True)
        }
        if unknown:
            raise NotFound(f"There is no contract {', '.join(sorted(unknown))}.")
        return {"run": self._run_due, "list": self._list, "plan": self._plan}[options["what"]](**options)

    def _run_due(self, *, limit: int, **_: Any) -> Exit:
        at = clock.now()
        services.run_due(at=at, limit=limit)
        done = ScheduledCommand.objects.filter(finished_at=at).select_related("contract")
        rows = [_row(command) for command in done.order_by("due_at", "key")]
        blocked = [row for row in rows if row["status"] == ScheduledCommand.Status.BLOCKED]
        lines = [f"{len(rows)} commands carried out, {len(blocked)} of them blocked", *map(_line, rows)]
        self.show({"commands": rows}, "\n".join(lines))
        return Exit.FINDINGS if blocked else Exit.DONE

    def _list(self, *, numbers: list[str], status: str, due: bool, limit: int, **_: Any) -> Exit:
        found = ScheduledCommand.objects.select_related("contract").order_by("due_at", "key")
        if due:
            found = found.due(clock.now())
        if status:
            found = found.filter(status=status)
        if numbers:
            found = found.filter(contract__number__in=numbers)
        rows = [_row(command) for command in found[:limit]]
        self.show({"commands": rows}, "\n".join(map(_line, rows)) or "Nothing is scheduled.")
        return Exit.DONE

    def _plan(self, *, numbers: list[str], limit: int, **_: Any) -> Exit:
        contracts = Contract.objects.exclude(
            status__in=[Contract.Status.EXPIRED, Contract.Status.TERMINATED, Contract.Status.CANCELLED]
        )
        if numbers:
            contracts = Contract.objects.filter(number__in=numbers)
        chosen, at, changed = contracts.order_by("id").values_list("pk", flat=True)[:limit], clock.now(), 0
        for pk in chosen.iterator(chunk_size=500):
            changed += services.replan_contract(contract_id=pk, actor=self.actor, at=at)
        self.show({"changed": changed}, f"{changed} scheduled commands were planned, moved or cancelled")
        return Exit.DONE


def _row(command: ScheduledCommand) -> Json:
    return {
        "key": command.key,
        "contract": command.contract.number,
        "kind": command.kind,
        "due_at": instant(command.due_at),
        "status": command.status,
        "edit": command.result_seq,
        "error": command.last_error,
    }


def _line(row: Json) -> str:
    said = f"  {row['error']}" if row["error"] else f"  edit #{row['edit']}" if row["edit"] else ""
    return f"  {row['due_at']}  {row['contract']}  {row['kind']}  {row['status']}{said}"

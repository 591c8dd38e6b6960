"""`manage.py contracts_rebuild`: fold every log again, compare with the rows, put right what differs."""

from argparse import ArgumentParser
from typing import Any

from commerce.management.ops import Exit, OpsCommand
from contracts.models import Contract
from contracts.services import rebuild_contract, verify_log


class Command(OpsCommand):
    help = "Rebuild contract projections from the edit log and verify the log's hashes."
    writes = True
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("numbers", nargs="*", help="contract numbers; all of them by default")
        parser.add_argument("--limit", type=int, help="at most so many contracts")

    def run(self, **options: Any) -> Exit:
        numbers, limit, dry_run = options["numbers"], options["limit"], options["dry_run"]
        contracts = Contract.objects.order_by("id").values_list("pk", "number")
        if numbers:
            contracts = contracts.filter(number__in=numbers)
        checked, differing, tampered = 0, [], []
        for pk, number in contracts[:limit].iterator(chunk_size=500):
            checked += 1
            if seq := verify_log(pk):
                tampered.append({"number": number, "seq": seq})
            if changed := rebuild_contract(contract_id=pk, actor=self.actor, dry_run=dry_run).changed:
                differing.append({"number": number, "columns": changed})
        lines = [
            f"{checked} contracts checked, {len(differing)} differed, {len(tampered)} logs tampered with"
        ]
        lines += [f"  {row['number']}: {', '.join(row['columns'])}" for row in differing]
        lines += [f"  {row['number']}: edit #{row['seq']} does not match its hash" for row in tampered]
        self.show({"checked": checked, "differed": differing, "tampered": tampered}, "\n".join(lines))
        return Exit.FINDINGS if differing or tampered else Exit.DONE

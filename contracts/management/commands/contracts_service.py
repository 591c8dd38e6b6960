"""`manage.py contracts_service`: fold the reports on every unit again, compare with the rows, put right."""

from argparse import ArgumentParser
from typing import Any

from commerce import clock
from commerce.management.ops import Exit, OpsCommand
from contracts.models import Contract, ServiceEvent
from contracts.services import rebuild_service


class Command(OpsCommand):
    help = "Rebuild the service status of units from what was reported of them."
    writes = True
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("numbers", nargs="*", help="contract numbers; all of them by default")

    def run(self, **options: Any) -> Exit:
        reported = ServiceEvent.objects.order_by().values("contract_id")
        contracts = Contract.objects.filter(pk__in=reported).order_by("id").values_list("pk", "number")
        if options["numbers"]:
            contracts = contracts.filter(number__in=options["numbers"])
        checked, differing = 0, []
        for pk, number in contracts.iterator(chunk_size=500):
            checked += 1
            at, dry_run = clock.now(), options["dry_run"]
            if units := rebuild_service(contract_id=pk, actor=self.actor, at=at, dry_run=dry_run):
                differing.append({"number": number, "units": units})
        lines = [f"{checked} contracts checked, {len(differing)} differed"]
        lines += [f"  {row['number']}: {', '.join(row['units'])}" for row in differing]
        self.show({"checked": checked, "differed": differing}, "\n".join(lines))
        return Exit.FINDINGS if differing else Exit.DONE

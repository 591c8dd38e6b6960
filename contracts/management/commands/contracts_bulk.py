"""`manage.py contracts_bulk list|show|run`: plans over many contracts, how far they are, and a hand to help.

Plans are made and confirmed by people, in the console; `run` only does what a worker would do next.
"""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from commerce import clock
from commerce.errors import NotFound
from commerce.management.ops import Exit, OpsCommand, positive, seconds
from contracts.models import BulkPlan, BulkPlanRow
from contracts.services import bulk

REMARKS_SHOWN = 50


class Command(OpsCommand):
    help = "Show plans over many contracts, and carry on with those under way."
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="plans, newest first")
        listing.add_argument("--status", choices=BulkPlan.Status.values)
        listing.add_argument("--limit", type=positive, default=50)
        show = verbs.add_parser("show", help="one plan, with what was left out and what failed")
        show.add_argument("id", type=UUID)
        run = verbs.add_parser("run", help="preview and run rows of the plans under way")
        run.add_argument("--seconds", type=seconds, default=60.0, help="for so long (default 60)")

    def run(self, **options: Any) -> Exit:
        if options["verb"] == "run":
            count = bulk.advance_bulk(at=clock.now(), seconds=options["seconds"])
            left = BulkPlan.objects.filter(status__in=["previewing", "running"]).count()
            self.show({"rows": count, "plans_left": left}, f"{count} rows, {left} plans under way")
            return Exit.PARTIAL if left else Exit.DONE
        if options["verb"] == "show":
            return self._show(options["id"])
        found = BulkPlan.objects.order_by("-id")
        if options["status"]:
            found = found.filter(status=options["status"])
        rows = [_plan(plan) for plan in found[: options["limit"]]]
        lines = [f"{row['id']}  {row['status']}  {row['operation']} on {row['size']:,}" for row in rows]
        self.show(rows, "\n".join(lines) or "no plan")
        return Exit.DONE

    def _show(self, id_: UUID) -> Exit:
        plan = BulkPlan.objects.filter(pk=id_).first()
        if plan is None:
            raise NotFound(f"There is no plan {id_}.")
        remarks = plan.rows.filter(
            outcome__in=[BulkPlanRow.Outcome.EXCLUDED, BulkPlanRow.Outcome.FAILED]
        ).values_list("contract__number", "outcome", "detail")
        listed = [
            {"contract": number, "outcome": outcome, "detail": detail}
            for number, outcome, detail in remarks.order_by("id")[:REMARKS_SHOWN]
        ]
        progress = bulk.progress(plan)
        lines = [
            f"{plan}: {plan.get_status_display()}",
            ", ".join(f"{n:,} {word}" for word, n in progress.items()),
        ]
        lines += [f"  {row['contract']} {row['outcome']}: {row['detail']}" for row in listed]
        self.show({**_plan(plan), "rows": progress, "remarks": listed}, "\n".join(lines))
        return Exit.FINDINGS if progress["failed"] else Exit.DONE


def _plan(plan: BulkPlan) -> dict[str, Any]:
    return {
        "id": str(plan.pk),
        "operation": plan.operation,
        "status": str(plan.status),
        "size": plan.size,
        "totals": plan.totals,
        "requested_at": plan.requested_at,
        "finished_at": plan.finished_at,
    }

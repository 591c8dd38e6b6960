"""`manage.py approvals list|approve|reject|cancel`: decide on requests from the command line, as a person.

The command has no identity that could approve anything: who decides signs in, and the same rules hold.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.utils.html import strip_tags

from commerce import clock
from commerce.console import approvals
from commerce.console.management.person import signed_in
from commerce.console.models import Approval, ApprovalStatus
from commerce.errors import NotFound
from commerce.management.ops import Exit, OpsCommand, positive


class Command(OpsCommand):
    help = "List requests that need a second person, and decide on them."
    writes = True

    def arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="what waits, oldest first")
        listing.add_argument("--status", choices=ApprovalStatus.values, default=str(ApprovalStatus.PENDING))
        listing.add_argument("--limit", type=positive, default=100)
        for verb in ("approve", "reject", "cancel"):
            one = verbs.add_parser(verb, help=f"{verb} a request")
            one.add_argument("id", type=UUID)
            one.add_argument("--as", dest="person", required=True, metavar="USERNAME", help="who decides")
            one.add_argument("--reason", required=True)

    def run(self, **options: Any) -> Exit:
        if options["verb"] == "list":
            return self._list(**options)
        verbs: dict[str, Callable[..., Approval]] = {
            "approve": approvals.approve,
            "reject": approvals.reject,
            "cancel": approvals.cancel,
        }
        approval = Approval.objects.filter(pk=options["id"]).first()
        if approval is None:
            raise NotFound(f"There is no request {options['id']}.")
        self.say(f"{approval}\n{_described(approval)}")
        decide = verbs[options["verb"]]
        approval = decide(
            approval=approval, actor=signed_in(options["person"]), at=clock.now(), reason=options["reason"]
        )
        if options["verb"] == "approve" and approval.status == ApprovalStatus.CANCELLED:
            self.show(_row(approval), f"{approval.title}: nothing was done, and the request is closed.")
            self.say(approval.decision)
            return Exit.REFUSED
        made = f", made {approval.result_type} {approval.result_id}" if approval.result_id else ""
        self.show(_row(approval), f"{approval.title}: {approval.status}{made}")
        return Exit.DONE

    def _list(self, *, status: str, limit: int, **_: Any) -> Exit:
        rows = [_row(approval) for approval in Approval.objects.filter(status=status).order_by("id")[:limit]]
        lines = [
            f"{row['id']}  {row['title']}, requested by {row['maker_name']}, "
            f"expires {row['expires_at']:%Y-%m-%d}\n  {row['consequences']}"
            for row in rows
        ]
        self.show(rows, "\n".join(lines) or f"nothing is {status}")
        return Exit.DONE


def _described(approval: Approval) -> str:
    return " ".join(strip_tags(approvals.describe(approval)).split())


def _row(approval: Approval) -> dict[str, Any]:
    return {
        **approval.event_payload(),
        "id": approval.pk,
        "title": approval.title,
        "arguments": approval.arguments,
        "reason": approval.reason,
        "maker_name": approval.maker_name,
        "checker_name": approval.checker_name,
        "requested_at": approval.requested_at,
        "expires_at": approval.expires_at,
        "consequences": _described(approval),
    }

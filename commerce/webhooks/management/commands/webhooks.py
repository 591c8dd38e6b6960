"""`manage.py webhooks status|deliver|reseal`: how the sending fares, what is due sent now, secrets."""

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from commerce import clock
from commerce.errors import InvalidInput
from commerce.management.ops import Exit, OpsCommand, positive
from commerce.webhooks import delivery, services
from commerce.webhooks.fan_out import fan_out


class Command(OpsCommand):
    help = "Look at outgoing webhooks, send what is due, or seal the signing secrets anew."
    writes = True

    def arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("status", help="what waits and who fails")
        deliver = verbs.add_parser("deliver", help="send what is due, here and now")
        deliver.add_argument("--limit", type=positive, default=10_000, help="how many at most")
        verbs.add_parser("reseal", help="seal the secrets with today's SECRET_KEY")

    def run(self, **options: Any) -> Exit:
        verbs: dict[str, Callable[..., Exit]] = {
            "status": self._status,
            "deliver": self._deliver,
            "reseal": self._reseal,
        }
        return verbs[options["verb"]](**options)

    def _status(self, **_: Any) -> Exit:
        now = delivery.status()
        self.show(now, "\n".join(f"{name.replace('_', ' '):20} {value}" for name, value in now.items()))
        return Exit.FINDINGS if now["endpoints_failing"] or now["endpoints_disabled"] else Exit.DONE

    def _deliver(self, *, limit: int, dry_run: bool, **_: Any) -> Exit:
        if dry_run:
            raise InvalidInput("What is sent cannot be taken back: there is no dry run of deliver.")
        at = clock.now()
        fan_out(at=at)
        report = delivery.deliver_due(at=at, seconds=3600, limit=limit)
        found = {"delivered": report.delivered, "failed": report.failed, "lost": report.lost}
        self.show(found, ", ".join(f"{count} {word}" for word, count in found.items()))
        return Exit.PARTIAL if report.failed else Exit.DONE

    def _reseal(self, **_: Any) -> Exit:
        count = services.reseal_secrets(actor=self.actor, at=clock.now())
        self.show({"secrets": count}, f"{count} secrets sealed anew")
        return Exit.DONE

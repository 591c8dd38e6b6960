"""`manage.py payouts_advance`: pay the payees whose policy is due, and look at the bank, now."""

from argparse import ArgumentParser
from typing import Any

from commerce import clock
from commerce.management.ops import Exit, OpsCommand, positive
from payouts import services


class Command(OpsCommand):
    help = "Run due payout policies, then look at the payment orders whose next look has come."
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--limit", type=positive, default=500, help="at most so many payees and orders each"
        )
        parser.add_argument("--no-poll", action="store_true", help="do not ask the bank")

    def run(self, **options: Any) -> Exit:
        at, limit = clock.now(), options["limit"]
        paid = services.pay_due(at=at, actor=self.actor, limit=limit)
        read = 0 if options["no_poll"] else services.poll_payouts(at=at, actor=self.actor, limit=limit)
        self.show({"policies": paid, "orders": read}, f"{paid} policies run, {read} orders read at the bank")
        return Exit.DONE

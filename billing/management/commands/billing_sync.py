"""`manage.py billing_sync`: compare OpenMeter's subscriptions with the contracts, or bring one in line."""

from argparse import ArgumentParser
from typing import Any

from billing import services
from billing.models import SubscriptionSync
from commerce import clock
from commerce.errors import ProviderError
from commerce.management.ops import Exit, OpsCommand


class Command(OpsCommand):
    help = (
        "With --check, compare what OpenMeter is going to bill with the contracts and change nothing: exit 3 "
        "when something differs that nothing explains. Without it, bring one contract's subscription in line."
    )
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="compare only")
        parser.add_argument("--contract", metavar="NUMBER", help="this contract instead of all that run")

    def run(self, **options: Any) -> Exit:
        number, check = options["contract"], options["check"]
        if not check and not number:
            self.say("Say --check, or which contract to bring in line with --contract.")
            return Exit.USAGE
        syncs = SubscriptionSync.objects.select_related("contract").exclude(customer_id="")
        syncs = syncs.filter(contract__number=number) if number else syncs.filter(ended_at=None)
        work = services.check_drift if check else services.resync
        found, away = [], 0
        for id_ in syncs.order_by("contract__number", "owner_epoch").values_list("pk", flat=True).iterator():
            try:
                found.append(work(sync_id=id_, actor=self.actor, at=clock.now()))
            except ProviderError as error:
                away += 1
                self.say(f"{id_}: {error.detail}")
        if number and not found and not away:
            self.say(f"OpenMeter knows nothing of a contract {number}.")
            return Exit.USAGE
        self.show([_facts(drift) for drift in found], "\n".join(map(_in_words, found)) or "Nothing runs.")
        if away:
            return Exit.PARTIAL
        return Exit.FINDINGS if any(drift.unexpected for drift in found) else Exit.DONE


def _facts(drift: services.Drift) -> dict[str, Any]:
    sync = drift.sync
    return {
        "contract": sync.contract.number,
        "owner_epoch": sync.owner_epoch,
        "subscription_id": sync.subscription_id,
        "unexpected": len(drift.unexpected),
        "drift": drift.rows,
    }


def _in_words(drift: services.Drift) -> str:
    head = f"{drift.sync.contract.number}, owner {drift.sync.owner_epoch}"
    if not drift.rows:
        return f"{head}: in step"
    rows = (f"  {row['what']}: {_why(row['reasons'])}" for row in drift.rows)
    return "\n".join([f"{head}:", *rows])


def _why(reasons: list[str]) -> str:
    return f"expected, {'; '.join(reasons)}" if reasons else "NOT EXPECTED"

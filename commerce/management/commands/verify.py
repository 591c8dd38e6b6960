"""`manage.py verify`: check the invariants on the live database; exit 3 when one is broken."""

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from commerce.invariants import REGISTRY
from commerce.management.ops import Exit, OpsCommand


class Command(OpsCommand):
    help = "Check the invariants and print what breaks them."

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--only", nargs="*", default=[], metavar="I1", help="only these invariants")

    def run(self, **options: Any) -> Exit:
        known = {inv.code for inv in REGISTRY}
        if unknown := sorted(set(options["only"]) - known):
            self.say(f"There is no invariant {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
            return Exit.USAGE
        chosen = [inv for inv in REGISTRY if not options["only"] or inv.code in options["only"]]
        findings = []
        for inv in sorted(chosen, key=lambda inv: (int(inv.code[1:]), inv.title)):
            self.say(f"{inv.code} {inv.title}")
            found = [{"invariant": inv.code, "title": inv.title, **asdict(f)} for f in inv.check()]
            for finding in found:
                self.say(f"  {finding['subject']}: {finding['detail']}")
            findings += found
        self.show(
            {"checked": sorted({inv.code for inv in chosen}), "checks": len(chosen), "findings": findings},
            f"{len(chosen)} checks, {len(findings)} findings.",
        )
        return Exit.FINDINGS if findings else Exit.DONE

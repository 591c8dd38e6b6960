"""`manage.py ledger_verify`: the whole ledger, its chain of seals, or one line of it to keep elsewhere."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from commerce.management.ops import Exit, OpsCommand
from ledger.models import LedgerSeal
from ledger.services import anchor, compare_anchor, recent_seal, verify_ledger


class Command(OpsCommand):
    help = (
        "Check the ledger: that everything balances, that balances and sums are what the entries say, and "
        "that nothing sealed was changed, removed or slipped in. Each finding is printed when it is found, "
        "with its type and row. Without an option the newest part is checked, about 100,000 transactions."
    )

    def arguments(self, parser: ArgumentParser) -> None:
        scope = parser.add_mutually_exclusive_group()
        scope.add_argument("--full", action="store_true", help="check everything from the first seal on")
        scope.add_argument(
            "--from-seq", type=int, metavar="N", help="check what seal number N covers and all after it"
        )
        scope.add_argument(
            "--anchor",
            action="store_true",
            help="print the latest seal as a line of JSON, to be kept where nobody of this system can write",
        )
        scope.add_argument(
            "--against",
            type=Path,
            metavar="FILE",
            help="compare the seals with a file of such lines, one or many",
        )

    def run(self, **options: Any) -> Exit:
        if options["anchor"]:
            return self._anchor()
        if options["against"]:
            return self._against(options["against"])
        since = options["from_seq"]
        if since is None:
            since = 1 if options["full"] else recent_seal()
        elif not LedgerSeal.objects.filter(number=since).exists():
            self.say(f"There is no seal {since:,}; --from-seq is the number of one.")
            return Exit.USAGE
        findings = []
        for finding in verify_ledger(since=since, progress=self.say):
            findings.append(asdict(finding))
            if not self.json:
                self.stdout.write(f"{finding.type} {finding.subject}: {finding.detail}")
        self.show({"since": since, "findings": findings}, f"From seal {since:,}: {len(findings)} findings.")
        return Exit.FINDINGS if findings else Exit.DONE

    def _anchor(self) -> Exit:
        line = anchor()
        if line is None:
            self.say("Nothing is sealed yet.")
            return Exit.REFUSED
        self.stdout.write(json.dumps(line))
        return Exit.DONE

    def _against(self, file: Path) -> Exit:
        """Every line of the file, so that anchors can be collected in one."""
        try:
            kept = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            self.say(f"{file} holds no anchors: {error}")
            return Exit.USAGE
        findings = [asdict(finding) for line in kept for finding in compare_anchor(line)]
        text = "\n".join(f"{f['type']} {f['subject']}: {f['detail']}" for f in findings)
        self.show({"compared": len(kept), "findings": findings}, text or f"{len(kept)} anchors hold.")
        return Exit.FINDINGS if findings else Exit.DONE

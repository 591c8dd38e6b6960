"""The server is killed in the middle of posting, as `python -m tests.crashes` does it fifty times."""

import json
import subprocess
import sys

from commerce.embedded import REPOSITORY

ROUNDS = 3


def test_no_answered_posting_is_lost_and_none_is_half_written_when_the_server_is_killed():
    command = [sys.executable, "-m", "tests.crashes", "ledger", "--rounds", str(ROUNDS), "--json"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    wrong = {name: report[name] for name in ("lost", "differ", "invented", "findings")}
    assert wrong == {"lost": [], "differ": [], "invented": [], "findings": []}
    assert (report["rounds"], report["answered"] > 2, report["unanswered"] > 0) == (ROUNDS, True, True)
    # The same comparison, where commits were answered before they were durable.
    assert report["lost_without_durable_commits"] > 0

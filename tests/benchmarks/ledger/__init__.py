"""The ledger beside pgbench's TPC-B, django-hordak and the raw limit of the same rows."""

from typing import Any

from tests.benchmarks.ledger import statements
from tests.benchmarks.report import Row, Target, compared
from tests.benchmarks.run import Run
from tests.benchmarks.server import Server
from tests.benchmarks.worker import Worker

CLIENTS = 8
OURS = {"module": "tests.benchmarks.ledger.ours", "settings": "commerce.settings"}
HORDAK = {"module": "tests.benchmarks.ledger.hordak", "settings": "tests.benchmarks.settings"}
FULL = {
    "scale": 50,
    "accounts": 10_000,
    "histories": (10_000, 100_000, 1_000_000),
    "times": 200,
    "peer_times": 7,
}
QUICK = {"scale": 1, "accounts": 200, "histories": (200, 1_000, 4_000), "times": 5, "peer_times": 3}
MILLISECOND = Target(1.0, of="ours", lower=True)
FLAT = Target(2.0, lower=True)


def run(run: Run) -> list[Row]:
    sizes: dict[str, Any] = QUICK if run.quick else FULL
    run.say("databases and accounts")
    run.server.create("ledger")
    run.server.create("pgbench")
    with Worker(**OURS, database="ledger") as ours:
        ours.ask("migrate")
        ours.ask("close")
    for database in ("history", "hordak", "service"):
        run.server.create(database, template="ledger")
    return [*_posting(run, sizes), *_reading(run, sizes)]


def _posting(run: Run, sizes: dict[str, Any]) -> list[Row]:
    server, seconds = run.server, run.seconds
    accounts = sizes["accounts"]
    server.fill_pgbench("pgbench", sizes["scale"])
    with Worker(**OURS, database="ledger") as ours:
        ids = ours.ask("open_wallets", count=accounts)
        ours.ask("close")
    with Worker(**OURS, database="service") as ours, Worker(**HORDAK, database="hordak") as hordak:
        ours.ask("open_wallets", count=accounts)
        hordak.ask("migrate")
        hordak.ask("open_accounts", count=accounts)
        _raw(server, accounts)
        options = ["-n", "-M", "prepared", "-c", CLIENTS, "-j", 2, "-T", max(int(seconds), 1)]
        ledger = [*options, "-D", f"accounts={accounts}", "-D", f"first={ids['first']}"]
        figures = run.alternate(
            {
                "TPC-B": lambda: server.pgbench("pgbench", *options, user=server.owner),
                "raw limit": lambda: server.pgbench(
                    "ledger", *options, "-D", f"accounts={accounts}", script=statements.RAW
                ),
                "random accounts": lambda: server.pgbench("ledger", *ledger, script=statements.RANDOM),
                "hot account": lambda: server.pgbench(
                    "ledger", *ledger, "-D", f"hot={ids['hot']}", script=statements.HOT
                ),
                "service, 1,000 per commit": lambda: ours.ask("in_batches", seconds=seconds),
                "hordak, 1,000 per commit": lambda: hordak.ask("in_batches", seconds=seconds),
                "service, one per commit": lambda: ours.ask("one_by_one", seconds=seconds),
                "hordak transfer_to": lambda: hordak.ask("one_by_one", seconds=seconds),
            }
        )
    single = f"transfers, random accounts of {accounts:,}, {CLIENTS} clients"
    random, hot = figures["random accounts"], figures["hot account"]
    return [
        compared(single, "/s", random, "pgbench TPC-B, prepared", figures["TPC-B"], Target(1.3)),
        compared(single, "/s", random, "raw limit", figures["raw limit"]),
        compared(
            f"transfers, all to one account of {ids['stripes']} stripes, {CLIENTS} clients",
            "/s",
            hot,
            "ours, random accounts",
            random,
            Target(0.8),
        ),
        compared(
            "service, 1,000 postings per commit, one process",
            "/s",
            figures["service, 1,000 per commit"],
            "hordak, bulk_create",
            figures["hordak, 1,000 per commit"],
            Target(3),
        ),
        compared(
            "service, one posting per commit, one process",
            "/s",
            figures["service, one per commit"],
            "hordak, transfer_to",
            figures["hordak transfer_to"],
            Target(3),
        ),
    ]


def _raw(server: Server, accounts: int) -> None:
    with server.connect("ledger") as connection:
        connection.execute(statements.RAW_TABLES)
        connection.execute(statements.RAW_ACCOUNTS, [accounts])


def _reading(run: Run, sizes: dict[str, Any]) -> list[Row]:
    found: dict[str, dict[str, list[dict[str, float]]]] = {"wallet": {}, "striped account": {}}
    theirs: dict[str, list[float]] = {}
    with Worker(**OURS, database="history") as ours, Worker(**HORDAK, database="hordak") as hordak:
        entries = _load(run, ours, sizes["histories"])
        for pair in entries["pairs"]:
            run.say(f"reading {pair['entries']:,} entries")
            for title, account in (("wallet", pair["account"]), ("striped account", pair["other"])):
                answers = ours.ask("reads", account=account, entries=pair["entries"], times=sizes["times"])
                for question, figures in answers.items():
                    found[title].setdefault(question, []).append(figures)
            account = hordak.ask("load", entries=pair["entries"])
            answers = hordak.ask("reads", account=account, times=sizes["peer_times"])
            for question, figures in answers.items():
                theirs.setdefault(question, []).append(figures["p50"])
        rows = _read_rows(sizes["histories"], found, theirs)
        verified = [
            entries["total"] / ours.ask("verify") for _ in range(run.rounds if ours.ask("can_verify") else 0)
        ]
    target = Target(200_000, of="ours")
    middle = sorted(verified)[len(verified) // 2] if verified else None
    return [*rows, Row(f"ledger_verify --full, {entries['total']:,} entries", "/s", middle, target=target)]


def _load(run: Run, ours: Worker, histories: tuple[int, ...]) -> dict[str, Any]:
    pairs = ours.ask("open_histories", count=len(histories))
    with run.server.connect("history") as connection:
        for pair, entries in zip(pairs, histories, strict=True):
            run.say(f"loading {entries:,} entries on one account")
            pair["entries"] = entries
            for statement in statements.HISTORY:
                connection.execute(statement, pair)
        connection.execute("ANALYZE")
        run.say("sealing them")
        while (connection.execute(statements.KEEP).fetchone() or [0])[0]:
            pass
        connection.execute("VACUUM ANALYZE")
        (total,) = connection.execute(statements.ENTRIES).fetchone() or (0,)
    return {"pairs": pairs, "total": total}


def _read_rows(
    histories: tuple[int, ...],
    found: dict[str, dict[str, list[dict[str, float]]]],
    theirs: dict[str, list[float]],
) -> list[Row]:
    """One row per question and size, and one that says how it grows from the smallest to the largest."""
    rows = []
    for title, questions in found.items():
        for question, answers in questions.items():
            peers = theirs.get(question) if title == "wallet" else None
            for place, (size, answer) in enumerate(zip(histories, answers, strict=True)):
                rows.append(
                    Row(
                        f"{question}, {title} of {size:,} entries",
                        "ms",
                        answer["p50"],
                        "hordak" if peers else "",
                        peers[place] if peers else None,
                        MILLISECOND,
                        {"p95": answer["p95"]},
                    )
                )
            small, large = answers[0]["p50"], answers[-1]["p50"]
            growth = f"{question}, {title}, {histories[-1]:,} beside {histories[0]:,} entries"
            rows.append(Row(growth, "ms", large, f"ours, {histories[0]:,} entries", small, FLAT))
    return rows

"""A contract that is changed again and again, and everything that a change must and must not move.

Each check asks the public doors: the contract as it was known before and as it is known now, the lines
that it should have billed, OpenMeter's own subscription, the invoices, the ledger.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from commerce.sandbox.scenarios.world import Account, Json, World, usd

# Months of the story, counted from January of the year in which it begins.
MAY, JUNE, JULY, AUGUST, SEPTEMBER, OCTOBER, NOVEMBER, DECEMBER = range(5, 13)
JANUARY, FEBRUARY, MARCH, APRIL, NEXT_MAY, NEXT_JUNE = range(13, 19)
SIMULATOR = {"Authorization": "Bearer sandbox-token"}


def first_of_may(world: World) -> datetime:
    """The next one: month lengths, and so every number of the story, are the same in any year."""
    now = world.now
    first = datetime(now.year, MAY, 1, tzinfo=UTC)
    return first if first >= now else first.replace(year=now.year + 1)


@dataclass
class Lease:
    """The contract, its one line of servers, and what its buyers have paid."""

    world: World
    start: datetime
    seller: Json
    servers: str
    contract: Json

    def on(self, month: int, day: int = 1) -> datetime:
        """Midnight of a day of the story."""
        return datetime(self.start.year + (month - 1) // 12, (month - 1) % 12 + 1, day, tzinfo=UTC)

    # Changing it

    def change(self, operation: str, payload: Json, **more: Any) -> None:
        """Record an operation; OpenMeter follows, and no money moves."""
        self.world.operate(self.contract, operation, payload, **more)
        self.followed()

    def change_together(self, operation: str, payload: Json, reason: str) -> None:
        """The same with a second person, without whom it is refused."""
        self.world.operate_together(self.contract, operation, payload, reason)
        self.followed()

    def followed(self) -> None:
        self.world.until_synced(self.contract)
        self.world.nothing_else_posted()

    def reported(self, *events: tuple[str, str, datetime]) -> None:
        """What units of the servers did: (unit, state, since when). No edit, and no money moves."""
        answer = self.world.post(
            "service-events",
            {
                "events": [
                    {
                        "id": f"{state}-{at.isoformat()}",
                        "source": "dcim",
                        "unit_id": f"{self.servers}-{unit}",
                        "state": state,
                        "at": at.isoformat(),
                        "contract_id": self.contract["id"],
                        "line_id": self.servers,
                    }
                    for unit, state, at in events
                ]
            },
        )
        self.world.expect("what was recorded of units", answer["recorded"], len(events))
        self.world.nothing_else_posted()

    # What it says

    def learned(self, at: datetime, was: Json, now: Json) -> None:
        """One instant of its life, as known before the newest edit and as known since."""
        edits = self.world.all(f"contracts/{self.contract['id']}/edits")
        for known, wanted in ((edits[-2], was), (edits[-1], now)):
            found = self.facts(at, known["recorded_at"])
            self.world.expect(
                f"what was known of {at:%-d %B} after edit {known['seq']}",
                {name: found[name] for name in wanted},
                wanted,
            )
        self.world.say(f"{at:%-d %B}: {_said(was)} as known before, {_said(now)} as known now")

    def facts(self, at: datetime, known_at: str) -> Json:
        state = self.world.get(f"contracts/{self.contract['id']}", valid_at=at.isoformat(), known_at=known_at)
        [line] = state["lines"]
        return {
            "status": state["status"],
            "servers": line["quantity"],
            "rate": line["price"]["rate"],
            "buyer": self.world.names[state["buyer_id"]],
            "off": [one["percent"] for one in state.get("discounts", {}).values()],
            "held for": [hold["reason"] for hold in state["holds"]],
            "loans": [one.get("closed_by", "") or "running" for one in state.get("financings", {}).values()],
            "term": state.get("term_no", 1),
            "ends": state["end_at"],
        }

    def edit(self, operation: str) -> Json:
        """Its newest edit of that kind."""
        return self.edits(operation)[-1]

    def edits(self, operation: str) -> list[Json]:
        """Its edits of that kind, oldest first."""
        edits = self.world.all(f"contracts/{self.contract['id']}/edits")
        return [edit for edit in edits if edit["operation"] == operation]

    # What it should have billed

    def owes(self, month: int, *lines: tuple[str, int], known_at: str | None = None) -> None:
        """Every line of a calendar month, to the cent: (kind, minor units) in the order of the contract."""
        more = {"known_at": known_at} if known_at else {}
        found = self.world.get(
            f"contracts/{self.contract['id']}/desired-lines",
            start=self.on(month).isoformat(),
            end=self.on(month + 1).isoformat(),
            **more,
        )
        shown = [(line["kind"], line["net"]["amount_minor"]) for line in found["items"]]
        self.world.expect(f"what {self.on(month):%B} comes to", shown, list(lines))
        self.world.expect("its sum", found["net"]["amount_minor"], sum(minor for _, minor in lines))
        due = ", ".join(f"{kind} {usd(minor)}" for kind, minor in lines)
        self.world.say(f"{self.on(month):%B}{' as known before' if known_at else ''}: {due}")

    def buyers_of(self, month: int) -> list[str]:
        """Whose each of a month's lines is."""
        found = self.world.get(
            f"contracts/{self.contract['id']}/desired-lines",
            start=self.on(month).isoformat(),
            end=self.on(month + 1).isoformat(),
        )
        return [self.world.names[line["buyer_id"]] for line in found["items"]]

    # What OpenMeter has

    def subscription(self, owner_epoch: int = 1) -> Json:
        """As the simulator answers it."""
        account = self.account(owner_epoch)
        path = f"/openmeter/api/v1/subscriptions/{account['subscription']['provider_id']}"
        return self.world.ask_simulator(path, SIMULATOR)

    def bills_at_openmeter(self, *items: tuple[str, str], owner_epoch: int = 1) -> None:
        """The items that run now, as (amount of a month, per cent off); the marker is not one of them."""

        def running() -> list[tuple[str, str]]:
            phases = self.subscription(owner_epoch)["phases"]
            found = [item for item in phases[0]["items"] if item["key"] != "contract"]
            return [(item["price"]["amount"], _per_cent_off(item)) for item in found]

        self.world.until(f"OpenMeter bills {list(items)}", lambda: running() == list(items))
        shown = [f"{amount} a month{f', {off} % off' if off != '0' else ''}" for amount, off in items]
        self.world.say(f"OpenMeter bills {' and '.join(shown) or 'nothing'}")

    def differs_as_expected(self, ours: int, theirs: int, *reasons: str) -> None:
        """What OpenMeter would bill of the running period otherwise, with each reason and no other."""

        def found() -> bool:
            drift = self.account()["subscription"]["drift"]
            rows = [
                row for row in drift if (row.get("ours_minor"), row.get("theirs_minor")) == (ours, theirs)
            ]
            return [sorted(row["reasons"]) for row in rows] == [sorted(reasons)]

        self.world.until(f"OpenMeter differs by {usd(theirs - ours)} because of {reasons}", found)
        self.world.say(f"OpenMeter would bill {usd(theirs)}, {usd(ours)} are owed: {'; '.join(reasons)}")

    def account(self, owner_epoch: int = 1) -> Json:
        """The billing account of one of its buyers."""
        found = self.world.all("billing-accounts", contract_id=self.contract["id"])
        return next(row for row in found if row["owner_epoch"] == owner_epoch)

    # What is invoiced and paid

    def invoiced(self, start: datetime, net: int, *, expected: tuple[str, ...] = ()) -> None:
        """The invoice of the time that begins then: paid if OpenMeter agrees, else once it is accepted.

        `expected` are the reasons for which OpenMeter was to bill something else; there are no others.
        """
        found = self.world.until(
            f"the invoice from {start:%-d %B} is rated", lambda: self._rated(start, bool(expected))
        )
        self.world.expect(f"the net from {start:%-d %B}", found["net"]["amount_minor"], net)
        self.world.expect(
            "its differences, as expected",
            [sorted(difference["expected"]) for difference in found["differences"]],
            [sorted(expected)] if expected else [],
        )
        if expected:
            self.world.post(f"invoices/{found['id']}/accept", {"reason": "As the contract says."})

    def _rated(self, start: datetime, differs: bool) -> Json | None:
        for invoice in self.world.all("invoices", contract_id=self.contract["id"]):
            if datetime.fromisoformat(invoice["period_start"]) == start:
                return invoice if invoice["differences" if differs else "verified_at"] else None
        return None

    def paid(self, buyer: str, *nets: int) -> None:
        """Invoices of these nets are collected from the wallet: a tenth is tax, a tenth of the net is fee."""
        balance = self.world.balances
        taxes, total = sum(map(tenth, nets)), sum(nets)

        def more(account: Account, minor: int) -> tuple[Account, int]:
            return account, balance.get(account, 0) + minor

        free = balance[buyer, "AVAILABLE"] + balance.get((buyer, "COMMITTED"), 0)
        self.world.posted(
            "collect",
            expect=dict(
                [
                    ((buyer, "COMMITTED"), 0),
                    ((buyer, "AVAILABLE"), free - total - taxes),
                    more(("Platform", "TAX_PAYABLE"), taxes),
                    more(("Platform", "PLATFORM_FEES"), taxes),
                    more(("Northwind", "PAY_IN_HOLDING"), total - taxes),
                ]
            ),
        )
        self.world.nothing_else_posted()


def tenth(minor: int) -> int:
    """Half up."""
    return (minor + 5) // 10


def _said(facts: Json) -> str:
    shown = {
        name: (" and ".join(value) or "none") if isinstance(value, list) else value
        for name, value in facts.items()
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _per_cent_off(item: Json) -> str:
    off = (item.get("discounts") or {}).get("percentage") or {"percentage": 0}
    return f"{off['percentage']:g}"

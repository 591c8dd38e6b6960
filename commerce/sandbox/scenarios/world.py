"""What a scenario can do and see: the public API, the simulators' control, the clock, the ledger.

Balances are those of the scenario's own postings: on a system that other contracts also move, the
platform's accounts hold more, while a party made by the scenario holds exactly this.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx

from commerce.sandbox.scenarios.console import Approver, Refused

Json = dict[str, Any]
Account = tuple[str, str]  # (owner's name, kind)

GOOD_BANK = {"account_number": "123456789", "routing_number": "121141822"}


class ScenarioFailed(Exception):
    """A step did not do what the story says; the message names the step."""


def usd(minor: int) -> str:
    """Minor units as people write dollars."""
    return f"{'-' if minor < 0 else ''}{abs(minor) // 100:,}.{abs(minor) % 100:02d}"


class World:
    """One play of one scenario."""

    def __init__(
        self,
        base_url: str,
        sandbox_url: str,
        api_key: str,
        report: Callable[[str], None],
        work: Callable[[], None] | None = None,
        patience: float = 60,
        approver: tuple[str, str] | None = None,
    ) -> None:
        self.report, self.work, self.patience = report, work, patience
        self.approver = Approver(base_url, *approver) if approver else None
        self.suffix = secrets.token_hex(2)
        self.api = httpx.Client(
            base_url=f"{base_url}/api/v1/",
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=30,
            trust_env=False,
        )
        self.sandbox = httpx.Client(base_url=sandbox_url, timeout=60, trust_env=False)
        self.names: dict[str, str] = {}
        self.balances: dict[Account, int] = {}
        self.seen: set[str] = set()
        self.step_name = "set-up"
        self.platform = self.one("organizations", role="platform")
        self.names[self.platform["id"]] = "Platform"

    # Talking

    def get(self, path: str, **parameters: Any) -> Json:
        return self._answer(self._patiently("GET", path, params=parameters))

    def all(self, path: str, **parameters: Any) -> list[Json]:
        """Every item of a list, page by page, oldest first."""
        found: list[Json] = []
        page = self.get(path, page_size=200, **parameters)
        while True:
            found += page["items"]
            if not page["next"]:
                return found[::-1]
            page = self._answer(self._patiently("GET", page["next"]))

    def one(self, path: str, **parameters: Any) -> Json:
        found = self.all(path, **parameters)
        if len(found) != 1:
            raise ScenarioFailed(f"{self.step_name}: {len(found)} of {path} {parameters}, not one.")
        return found[0]

    def post(self, path: str, body: Json, **headers: str) -> Json:
        """Send once under one Idempotency-Key, however often the connection has to be tried."""
        sent = {"Idempotency-Key": uuid4().hex, **headers}
        return self._answer(self._patiently("POST", path, json=body, headers=sent))

    def control(self, path: str, body: Json | None = None) -> Json:
        """The simulators' control interface: GET without a body, POST with one."""
        method = "GET" if body is None else "POST"
        return self._answer(self.sandbox.request(method, f"/__control__/{path}", json=body))

    def ask_simulator(self, path: str, headers: dict[str, str]) -> Json:
        """What a provider answers to a GET: it, and not what we believe of it."""
        return self._answer(self._persistently(self.sandbox, "GET", path, headers=headers))

    def _patiently(self, method: str, path: str, **options: Any) -> httpx.Response:
        if not path.startswith("http"):
            path = f"{path}/"
        return self._persistently(self.api, method, path, **options)

    def _persistently(self, client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
        """Try again while nobody answers: reads, and writes under an idempotency key."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                response = client.request(method, path, **options)
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            else:
                if response.status_code not in (429, 503) or time.monotonic() > deadline:
                    return response
            time.sleep(0.3)

    def _answer(self, response: httpx.Response) -> Json:
        if response.is_success:
            return dict(response.json())
        raise ScenarioFailed(
            f"{self.step_name}: {response.request.method} {response.request.url.path} answered "
            f"{response.status_code}: {response.text[:600]}"
        )

    # Time

    @property
    def now(self) -> datetime:
        return datetime.fromisoformat(self.control("clock")["now"]).astimezone(UTC)

    def move_clock(self, to: datetime) -> None:
        """Forward only; what falls due on the way happens in order."""
        if to > self.now:
            self.control("clock", {"now": to.isoformat()})

    def start_of_next_month(self) -> datetime:
        """The clock's instant when it is a first of a month at midnight, else the next such."""
        now = self.now
        first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return first if first == now else (first + timedelta(days=32)).replace(day=1)

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait until `condition` is truthy and return it; let the work go on meanwhile."""
        deadline = time.monotonic() + self.patience
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise ScenarioFailed(f"{self.step_name}: waited {self.patience:.0f} s in vain until {what}.")
            if self.work:
                self.work()
            else:
                time.sleep(0.15)
        return found

    # Steps

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.step_name = title
        self.report(f"\n{title}")
        try:
            yield
        except ScenarioFailed:
            raise
        except AssertionError as error:
            raise ScenarioFailed(f"{title}: {error}") from error

    def say(self, line: str) -> None:
        self.report(f"    {line}")

    def expect(self, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            raise ScenarioFailed(f"{self.step_name}: {what} is {found!r}, not {wanted!r}.")

    def posted(self, *recipes: str, expect: dict[Account, int]) -> None:
        """Wait for postings of these recipes, then assert what every account holds after them.

        `expect` names each account that they moved with its balance in minor units. An account that
        moved and is not named, or is named and did not come to that, fails the step. Postings of
        other recipes wait for their own step.
        """
        moved: dict[Account, int] = {}

        def settled() -> bool:
            for transaction in self._new_postings(recipes):
                self.seen.add(transaction["id"])
                for entry in transaction["entries"]:
                    self._book(entry, moved)
            return all(self.balances.get(account, 0) == minor for account, minor in expect.items())

        try:
            self.until(f"the ledger shows {_shown(expect)}", settled)
        except ScenarioFailed as error:
            shown = _shown({account: self.balances[account] for account in moved})
            raise ScenarioFailed(f"{error} It shows {shown or 'nothing new'}.") from None
        unexpected = {account: self.balances[account] for account in moved if account not in expect}
        if unexpected:
            raise ScenarioFailed(f"{self.step_name}: these accounts moved as well: {_shown(unexpected)}.")
        for (owner, kind), minor in expect.items():
            change = moved.get((owner, kind), 0)
            sign = "+" if change >= 0 else ""
            self.say(f"{kind:<22}{owner:<14}{usd(minor):>14} USD   ({sign}{usd(change)})")

    def nothing_else_posted(self) -> None:
        """Assert that every posting on the parties' accounts belonged to some step."""
        left = [f"{transaction['recipe']} {transaction['source']}" for transaction in self._new_postings(())]
        self.expect("what else was posted", left, [])

    def _new_postings(self, recipes: tuple[str, ...]) -> list[Json]:
        found: dict[str, Json] = {}
        for owner, name in self.names.items():
            if name != "Platform":
                for transaction in self.all("ledger/transactions", owner_id=owner):
                    found[transaction["id"]] = transaction
        return [
            transaction
            for id_, transaction in sorted(found.items())
            if id_ not in self.seen and (not recipes or transaction["recipe"] in recipes)
        ]

    def _book(self, entry: Json, moved: dict[Account, int]) -> None:
        account = (self.names.get(entry["owner_id"]) or "somebody else", str(entry["kind"]))
        amount = entry["amount"]["amount_minor"] * (1 if entry["side"] == entry["normal_side"] else -1)
        self.balances[account] = self.balances.get(account, 0) + amount
        moved[account] = moved.get(account, 0) + amount

    def expect_wallet(self, organization: Json) -> None:
        """The accounts that the API shows for a party are the ones the story has booked."""
        owner = self.names[organization["id"]]
        for account in self.all("ledger/accounts", owner_id=organization["id"]):
            booked = self.balances.get((owner, account["kind"]), 0)
            self.expect(f"{owner}'s {account['kind']}", account["posted"]["amount_minor"], booked)

    # Parties

    def register(self, name: str, *roles: str, bank: Json | None = None) -> Json:
        """Register an organization and wait until its accounts at the providers exist."""
        body: Json = {
            "name": f"{name} {self.suffix}",
            "roles": list(roles),
            "country": "US",
            "currency": "USD",
            "email": f"{name.lower()}-{self.suffix}@example.com",
        }
        if bank:
            body["bank_account"] = bank
        organization = self.post("organizations", body)
        self.names[organization["id"]] = name
        return organization

    def onboarded(self, organization: Json) -> Json:
        def active() -> Json | None:
            found = self.get(f"organizations/{organization['id']}")
            return found if found["onboarding_status"] == "active" else None

        return dict(self.until(f"{self.names[organization['id']]} is onboarded", active))

    def reference(self, organization: Json, kind: str) -> str:
        """The provider's id of one of an organization's accounts."""
        for reference in self.all(f"organizations/{organization['id']}/references"):
            if reference["kind"] == kind and reference["provider_id"]:
                return str(reference["provider_id"])
        raise ScenarioFailed(f"{self.step_name}: no {kind} for {self.names[organization['id']]}.")

    def wire(self, buyer: Json, minor: int) -> None:
        """A wire reaches the buyer's virtual account at the bank."""
        answer = self._persistently(
            self.sandbox,
            "POST",
            "/modern-treasury/api/simulations/incoming_payment_details/create_async",
            json={
                "type": "wire",
                "direction": "credit",
                "amount": minor,
                "currency": "USD",
                "virtual_account_id": self.reference(buyer, "virtual_account"),
            },
            auth=("sandbox", "sandbox-key"),
            headers={"Idempotency-Key": uuid4().hex},
        )
        self._answer(answer)

    # Contracts

    def operate(
        self,
        contract: Json,
        operation: str,
        payload: Json,
        reason: str = "",
        effective_at: datetime | None = None,
    ) -> Json:
        """Record one operation on the contract's newest version, now or as of another instant."""
        body: Json = {"operation": operation, "payload": payload}
        if reason:
            body["reason"] = reason
        if effective_at:
            body["effective_at"] = effective_at.isoformat()
        return self.post(f"contracts/{contract['id']}/operations", body, **self._newest(contract))

    def operate_together(self, contract: Json, operation: str, payload: Json, reason: str) -> None:
        """Ask for an operation that one may not record alone, and have a person agree to it."""
        if self.approver is None:
            raise ScenarioFailed(f"{self.step_name}: nobody is there who approves; name an approver.")
        asked = self.post(
            f"contracts/{contract['id']}/approvals",
            {"operations": [{"operation": operation, "payload": payload}], "reason": reason},
            **self._newest(contract),
        )
        try:
            self.approver.approve(asked["approval_id"], "Agreed by all parties.")
        except Refused as refused:
            raise ScenarioFailed(f"{self.step_name}: {operation} was not approved: {refused}.") from None

    def _newest(self, contract: Json) -> dict[str, str]:
        """The header that names the contract's newest version."""
        version = self.get(f"contracts/{contract['id']}")["version"]
        return {"If-Match": f'"{version}"'}

    def billing(self, contract: Json) -> Json:
        return self.one("billing-accounts", contract_id=contract["id"])

    def until_synced(self, contract: Json) -> Json:
        """Wait until OpenMeter has followed the contract's newest version."""

        def synced() -> Json | None:
            version = self.get(f"contracts/{contract['id']}")["version"]
            found: list[Json] = self.all("billing-accounts", contract_id=contract["id"])
            newest = max(found, key=lambda account: account["owner_epoch"], default=None)
            subscription = newest["subscription"] if newest else None
            return subscription if subscription and subscription["applied_version"] >= version else None

        return dict(self.until("OpenMeter has followed the contract", synced))

    def until_status(self, contract: Json, status: str) -> None:
        self.until(
            f"the billing status is {status}", lambda: self.billing(contract)["billing_status"] == status
        )

    def told_paid(self, invoice: Json) -> int:
        """How often OpenMeter was told that an invoice is paid, as it counts."""
        told = self.control("effects")["openmeter"]["payment_status"]
        return sum(row["invoice_id"] == invoice["provider_id"] and row["trigger"] == "paid" for row in told)

    def invoice_when(self, contract: Json, status: str, number: int = 1) -> Json:
        """The contract's n-th invoice, once it has this status."""

        def found() -> Json | None:
            invoices = self.all("invoices", contract_id=contract["id"])
            return invoices[number - 1] if len(invoices) >= number else None

        def ready() -> bool:
            invoice = found()
            return invoice is not None and invoice["status"] == status

        self.until(f"invoice {number} is {status}", ready)
        return self.get(f"invoices/{found()['id']}")  # type: ignore[index]


def _shown(balances: dict[Account, int]) -> str:
    return ", ".join(f"{kind}({owner}) {usd(minor)}" for (owner, kind), minor in balances.items())

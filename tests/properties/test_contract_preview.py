"""A preview says what recording does, for every operation and for batches, on a contract in the database.

What is asked for is previewed, recorded and compared: states, pointers, bills, or the refusal. After each
step the row, the segments, the schedule, the chain and the events are what the log alone implies.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from itertools import chain, islice, repeat
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from commerce.actor import Actor
from commerce.parties.models import Organization
from contracts import services
from contracts.rules.operations import NAMES
from contracts.services import bills
from tests.contracts.agreement import Asked, agrees_with_its_log, preview_and_record, reached
from tests.contracts.conftest import MARCH, OPERATOR, create, edit
from tests.contracts.scheduling import tick

DAY = timedelta(days=1)
BUYER, GLOBEX, SELLER, EASTWIND = (UUID(int=n) for n in range(1, 5))
SERVERS, HOURS, SPARE = (UUID(int=n) for n in range(10, 13))
DISCOUNT, MINIMUM, LOANS = UUID(int=20), UUID(int=30), (UUID(int=40), UUID(int=41))
WHEN = st.sampled_from((None, None, None, 0, -4, 20))
EXAMPLES = 7
KINDS = tuple(name for name in NAMES if name != "create")


def line(line_id: UUID, product: str = "h100-server", rate: str = "18000.00") -> dict[str, Any]:
    price = {"model": "unit", "rate": rate, "currency": "USD"}
    seller = str(SELLER)
    return {
        "line_id": str(line_id), "product": product, "seller_id": seller, "quantity": 2, "price": price
    }  # fmt: skip


AGREED = {
    "buyer_id": str(BUYER),
    "currency": "USD",
    "start_at": "2027-03-01T00:00:00Z",
    "term": {"kind": "fixed", "months": 1},
    "terms": {
        "tax": {"rate": "0.0825"},
        "settlement": {"fee_rate": "0.125"},
        "renewal": {"auto": True, "notice_days": 10, "term_months": 1},
    },
    "lines": [line(SERVERS), line(HOURS, "h100-burst", "2.00")],
}
LOAN = {"principal_minor": 18_000_000, "apr": "0.09", "term_months": 24, "first_due_on": "2027-07-01"}


def transferred(party: str, old: UUID, new: UUID) -> dict[str, Any]:
    consents = [{"party": str(one), "name": "A", "at": "2027-03-01T00:00:00Z"} for one in (old, new)]
    return {"party": party, "new_party_id": str(new), "consents": consents}


def asked(operation: str, **fields: Any) -> st.SearchStrategy[Asked]:
    given = {
        name: one if isinstance(one, st.SearchStrategy) else st.just(one) for name, one in fields.items()
    }
    days = st.none() if operation == "correct" else WHEN
    return st.tuples(st.just(operation), st.fixed_dictionaries(given), days)


def literally(operation: str, *payloads: dict[str, Any]) -> st.SearchStrategy[Asked]:
    return st.tuples(st.just(operation), st.sampled_from(payloads), WHEN)


lines = st.sampled_from((SERVERS, HOURS, SPARE)).map(str)
reasons = st.sampled_from(("buyer", "abuse"))
by_id = {"discount_id": str(DISCOUNT)}
minimum = {"commitment_id": str(MINIMUM)}
loan, other = ({"financing_id": str(id_)} for id_ in LOANS)
# One strategy for each kind, so that all are met equally often.
OF_KIND: dict[str, st.SearchStrategy[Asked]] = {
    "create": literally("create", AGREED),
    "activate": asked("activate", stage=st.sampled_from(("submit", "live", "withdraw"))),
    "add_product": literally("add_product", line(SPARE), line(SPARE, rate="1.005"), line(SERVERS)),
    "remove_product": asked(
        "remove_product", line_id=lines, when=st.sampled_from(("immediate", "end_of_period"))
    ),
    "change_quantity": asked("change_quantity", line_id=lines, quantity=st.integers(-1, 9))
    | asked("change_quantity", line_id=lines, delta=st.integers(-3, 3)),
    "change_price": asked(
        "change_price",
        line_id=st.sampled_from((SERVERS, HOURS)).map(str),
        percent=st.sampled_from(("-0.05", "0.5", "-0.1", "-2")),
        when=st.sampled_from(("effective", "next_period", "renewal")),
    ),
    "apply_discount": literally(
        "apply_discount",
        by_id | {"kind": "percent", "percent": "0.1"},
        by_id | {"kind": "percent", "percent": "0.25", "duration": {"kind": "once"}},
        by_id | {"mode": "end"},
    ),
    "set_commitment": literally(
        "set_commitment",
        minimum | {"kind": "minimum_spend", "amount_minor": 9_000_000},
        minimum | {"kind": "minimum_spend", "amount_minor": 4_500_000, "scope": [str(SERVERS)]},
        minimum | {"mode": "end"},
    ),
    "attach_financing": literally(
        "attach_financing",
        loan | LOAN,
        other | LOAN | {"mode": "refinance", "replaces": str(LOANS[0]), "principal_minor": 18_000_000},
        loan | {"mode": "payoff", "payoff_minor": 18_000_000},
        loan | {"mode": "detach"},
    ),
    "change_terms": literally(
        "change_terms",
        {"payment": {"net_days": 21}},
        {"renewal": {"auto": False}, "references": {"po_number": "A"}},
        {"billing": {"anchor_day": 15}},
        {"settlement": {"fee_rate": "0.15"}},
        {"payment": {"net_days": -1}},
    ),
    "renew": literally(
        "renew",
        {},
        {"mode": "extend", "term_months": 1},
        {"mode": "evergreen"},
        {"trigger": "auto"},
        {"uplift": {"kind": "percent", "value": "0.03"}},
    ),
    "suspend": asked("suspend", reason=reasons, billing=st.sampled_from(("stop", "continue")))
    | asked("suspend", reason=reasons, scope=[str(SERVERS)], resume_at="2027-05-20T00:00:00Z"),
    "resume": asked("resume", reason=reasons),
    "terminate": literally(
        "terminate",
        {"cause": "mutual", "when": "end_of_term"},
        {"cause": "convenience", "when": "end_of_period", "financing": "payoff"},
        {"cause": "mutual"},
    ),
    "transfer_ownership": literally(
        "transfer_ownership",
        transferred("buyer", BUYER, GLOBEX),
        transferred("seller", SELLER, EASTWIND),
        transferred("buyer", GLOBEX, BUYER) | {"consents": []},
    ),
    "correct": asked("correct", target_seq=st.integers(5, 12), mode=st.sampled_from(("void", "reinstate")))
    | asked(
        "correct",
        target_seq=st.integers(5, 12),
        mode="replace",
        replacement={"payload": {"line_id": str(SERVERS), "quantity": 7}},
    ),
}
# What nothing refuses: every kind is met at least here.
SURE: tuple[Asked, ...] = tuple(
    (operation, payload, None)
    for operation, payload in (
        ("activate", {"stage": "submit"}),
        ("activate", {"stage": "signed"}),
        ("activate", {"stage": "live"}),
        ("add_product", line(SPARE)),
        ("change_quantity", {"line_id": str(SERVERS), "quantity": 5}),
        ("change_price", {"line_id": str(SERVERS), "percent": "-0.05"}),
        ("apply_discount", by_id | {"kind": "percent", "percent": "0.1"}),
        ("set_commitment", minimum | {"kind": "minimum_spend", "amount_minor": 9_000_000}),
        ("change_terms", {"payment": {"net_days": 21}}),
        ("transfer_ownership", transferred("buyer", BUYER, GLOBEX)),
        ("attach_financing", loan | LOAN),
        ("suspend", {"reason": "buyer"}),
        ("resume", {"reason": "buyer"}),
        ("correct", {"target_seq": 6, "mode": "void"}),
        ("renew", {}),
        ("remove_product", {"line_id": str(SPARE)}),
        ("terminate", {"cause": "mutual", "when": "end_of_term"}),
    )
)
# Every kind once, in any order, alone or up to four together; between them days pass, and the schedule runs.
stories = st.permutations(tuple(OF_KIND)).flatmap(lambda kinds: st.tuples(*map(OF_KIND.__getitem__, kinds)))
sizes = st.lists(st.sampled_from((1, 2, 1, 4, 3)), min_size=4, max_size=16)
pauses = st.lists(st.sampled_from((7, 0, 2, 16)), min_size=16, max_size=16)
runs = st.lists(st.sampled_from((True, True, False)), min_size=16, max_size=16)


@pytest.fixture
def person(db: None, monkeypatch: pytest.MonkeyPatch) -> Actor:
    """Somebody who may do everything alone that one person may do alone, and the parties of the contract."""
    for code, kind, unit, meter in (
        ("h100-server", "recurring", "server_month", ""), ("h100-burst", "usage", "device_hour", "burst"),
    ):  # fmt: skip
        services.ensure_product(code=code, name=code, kind=kind, unit=unit, meter=meter, actor=OPERATOR)
    for id_, role in ((BUYER, "buyer"), (GLOBEX, "buyer"), (SELLER, "seller"), (EASTWIND, "seller")):
        Organization.objects.create(id=id_, name=f"O{id_.int}", slug=f"o{id_.int}", roles=[role])
    Organization.objects.update(onboarding_status="active")
    monkeypatch.setattr(bills, "_sources", [lambda *_: lambda _, start, end: Decimal((end - start).days)])
    return Actor.for_user(User.objects.create_superuser("operator"))


def parts(story: Sequence[Asked], sizes: Sequence[int]) -> Iterator[Sequence[Asked]]:
    """The story in batches of these sizes, and what remains one by one."""
    rest = iter(story)
    for size in chain(sizes, repeat(1)):
        if not (part := tuple(islice(rest, size))):
            return
        yield part


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(live=False, story=SURE, sizes=[1, 1, 1, 3], pauses=[0] * len(SURE), runs=[False] * len(SURE))
@given(live=st.booleans(), story=stories, sizes=sizes, pauses=pauses, runs=runs)
def agreement(
    person: Actor, live: bool, story: Sequence[Asked], sizes: list[int], pauses: list[int], runs: list[bool]
) -> None:
    with transaction.atomic():
        contract, at = create(AGREED).contract, MARCH
        for stage in ("submit", "signed", "live") if live else ():
            edit(contract, "activate", {"stage": stage})
        for place, part in enumerate(parts(story, sizes)):
            at += pauses[place] * DAY
            if runs[place]:
                reached["schedule", "ran"] += tick(at)
            preview_and_record(contract, part, person, at, f"story-{place}")
            agrees_with_its_log(contract, at)
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        transaction.set_rollback(True)


@pytest.mark.django_db
def test_what_a_preview_says_is_what_recording_does_and_the_log_implies_the_rest(person: Actor) -> None:
    reached.clear()
    agreement(person)
    recorded = {name for name, how in reached if how == "recorded"}
    assert recorded >= {*KINDS, "batch"}, {*KINDS, "batch"} - recorded  # or the agreement would say little
    asked = ("single", "refused"), ("batch", "refused"), ("approval", "asked"), ("bills", "changed")
    assert all(reached[what] for what in (*asked, ("schedule", "ran"))), reached

"""The contract's page: tabs that cost little, two instants, comparisons, versions, bills, its list."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from contracts.models import Contract, ContractEdit
from tests.contracts.conftest import MARCH, edit
from tests.contracts.console.conftest import page

pytestmark = pytest.mark.django_db
Browser = Callable[[str], Client]
TABS = (
    "lines-and-terms",
    "timeline",
    "versions",
    "compare",
    "what-it-bills",
    "invoices",
    "ledger",
    "approvals",
)
MOST_QUERIES = 16


def read(client: Client, contract: Contract, query: str = "") -> str:
    answer = client.get(page(contract, query))
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_page_shows_lines_and_terms_first_and_only_possible_operations_as_buttons(
    browser: Browser, active: Contract
) -> None:
    text = read(browser("operator"), active)
    for said in ("18,000.00 USD / server-month", "12.5 %", "8.25 %", "Northwind", "Bridge"):
        assert said in text, said
    possible, impossible = text.split("Not possible now")
    assert "/do/suspend/" in possible
    assert "/do/live/" not in text
    assert "Not possible while active." in impossible
    assert "No hold is open." in impossible


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_costs_few_queries_and_asks_nothing_for_the_others(
    tab: str, browser: Browser, active: Contract, servers: UUID
) -> None:
    for quantity in range(3, 15):
        edit(active, "change_quantity", {"line_id": str(servers), "quantity": quantity})
    viewer = browser("viewer")
    read(viewer, active, f"?tab={tab}")
    with CaptureQueriesContext(connection) as queries:
        text = read(viewer, active, f"?tab={tab}")
    assert f'href="?tab={tab}" aria-current="page"' in text
    assert len(queries) <= MOST_QUERIES, [query["sql"][:120] for query in queries]
    invoices = [query for query in queries if "billing_invoice" in query["sql"]]
    assert bool(invoices) == (tab in ("timeline", "invoices", "ledger")), tab


def test_at_another_instant_the_page_warns_and_offers_nothing(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 5}, at=MARCH + timedelta(days=10))
    operator = browser("operator")
    text = read(operator, active, "?valid_at=2027-03-05T00:00")
    assert "Nothing can be done here" in text
    assert 'c-right">2<' in text
    assert "/do/" not in text
    assert "/batch/" not in text
    assert "?tab=versions&amp;valid_at=2027-03-05T00%3A00" in text
    for none in ("rubbish", "9999-12-31T23:59-23:59", "0001-01-01T00:00%2B23:59"):
        assert 'c-right">5<' in read(operator, active, f"?valid_at={none}")
    before = read(operator, active, "?valid_at=2020-01-01T00:00")
    assert "It was not known then." in before


def test_what_was_known_then_is_shown_though_it_was_wrong(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    known = ContractEdit.objects.latest("recorded_at").recorded_at
    late = {"at": MARCH + timedelta(days=10), "effective_at": MARCH + timedelta(days=2), "reason": "Late"}
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 5}, **late)
    operator = browser("operator")
    then = known.isoformat().replace("+", "%2B")
    assert 'c-right">5<' in read(operator, active, "?valid_at=2027-03-05T00:00")
    assert 'c-right">2<' in read(operator, active, f"?valid_at=2027-03-05T00:00&known_at={then}")


def test_two_instants_of_knowledge_are_compared_over_all_of_business_time(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    known = ContractEdit.objects.latest("recorded_at").recorded_at
    line = str(servers)
    edit(active, "change_quantity", {"line_id": line, "quantity": 5}, effective_at=MARCH + timedelta(days=2))
    edit(active, "change_quantity", {"line_id": line, "quantity": 3}, effective_at=MARCH + timedelta(days=9))
    viewer = browser("viewer")
    text = read(viewer, active, "?tab=compare&from=4&to=6")
    assert "h100-server quantity" in text
    for said in (
        "3 Mar 2027",
        "10 Mar 2027",
        '<span class="c-gone">2</span>',
        '<span class="c-new">5</span>',
    ):
        assert said in text, said
    by_clock = read(viewer, active, f"?tab=compare&diff_from={known.isoformat().replace('+', '%2B')}")
    assert '<span class="c-new">3</span>' in by_clock
    assert "Both say the same" in read(viewer, active, "?tab=compare&from=6&to=6")
    assert str(servers) not in text.partition("What</th>")[2]


def test_versions_say_who_why_when_in_both_times_and_what_changed(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    for quantity in range(3, 30):
        more = {"reason": f"Rack {quantity}"}
        edit(active, "change_quantity", {"line_id": str(servers), "quantity": quantity}, **more)
    edit(active, "correct", {"target_seq": 31, "mode": "void"}, reason="Never ordered")
    viewer = browser("viewer")
    text = read(viewer, active, "?tab=versions")
    assert "voided by #32" in text
    assert "Rack 29" in text
    assert "Never ordered" in text
    assert "<b>h100-server quantity</b> <del>28</del> → 29" in text
    older = read(viewer, active, "?tab=versions&before=13")
    assert "Rack 29" not in older
    assert "the draft" in older


def test_the_bill_of_a_period_is_to_the_cent_at_any_instant_of_knowledge(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    known = ContractEdit.objects.latest("recorded_at").recorded_at
    at = {"effective_at": MARCH + timedelta(days=15, hours=12)}
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 4}, **at)
    viewer = browser("viewer")
    text = read(viewer, active, "?tab=what-it-bills")
    assert "1 Mar 2027 – 1 Apr 2027" in text
    assert text.count("18,000.00") == 1
    assert "36,000.00" in text
    assert "54,000.00" in text
    assert "72,000.00" in read(viewer, active, "?tab=what-it-bills&period=2027-04-20")
    then = known.isoformat().replace("+", "%2B")
    assert "54,000.00" not in read(viewer, active, f"?tab=what-it-bills&known_at={then}")


def test_a_list_opens_the_operation_on_many_with_its_own_filter(browser: Browser, active: Contract) -> None:
    listed = reverse("admin:contracts_contract_changelist")
    text = browser("operator").get(f"{listed}?status__exact=active").content.decode()
    assert f"{reverse('admin:contracts_bulkplan_new')}?status__exact=active" in text
    viewer = browser("viewer").get(listed).content.decode()
    assert active.number in viewer
    assert "bulkplan/new" not in viewer


def test_an_edit_has_a_page_that_says_what_it_changed(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 5})
    row: Any = active.edits.get(seq=5)
    url = reverse("admin:contracts_contractedit_change", args=[row.pk])
    operator = browser("operator")
    text = operator.get(url).content.decode()
    assert "h100-server quantity" in text
    assert row.hash in text
    assert operator.post(url, {"reason": "x"}).status_code == 403


def test_a_version_that_others_have_made_moot_says_so(browser: Browser, active: Contract) -> None:
    """The log keeps what it said when it was recorded; what rests on nothing any more is marked."""
    for days, seq in ((21, 1), (30, 5)):
        change = {"payment": {"net_days": days}}
        edit(active, "change_terms", change, at=MARCH + timedelta(days=seq))
    viewer = browser("viewer")
    assert "changes nothing any more" not in read(viewer, active, "?tab=versions")
    replaced = {"payload": {"payment": {"net_days": 30}}}
    edit(
        active, "correct", {"target_seq": 5, "mode": "replace", "replacement": replaced},
        at=MARCH + timedelta(days=6), reason="Agreed from the first day.",
    )  # fmt: skip
    shown = read(viewer, active, "?tab=versions")
    assert shown.count("changes nothing any more") == 1
    assert "#6" in shown.split("changes nothing any more")[0].rsplit("<tr", 1)[1]

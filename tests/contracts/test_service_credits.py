"""Credits for missed uptime from what was reported: in bills, previews, the API and the console."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from contracts import services
from contracts.models import Contract, ServiceEvent
from contracts.services import OperationRequest
from tests.contracts.conftest import MARCH, OPERATOR, Parties, edit
from tests.contracts.console.conftest import browser, page
from tests.contracts.test_service import HOUR, record, report
from tests.contracts.test_service_doors import Api

__all__ = ["browser"]
pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
APRIL, MAY = MARCH + 31 * DAY, MARCH + 61 * DAY
OUTAGE = MARCH + 10 * DAY


@pytest.fixture
def failed(active: Contract, servers: UUID) -> Contract:
    """One of two servers was down for 9 of March's 744 hours: 99.40 %, so 5 % of 36,000.00."""
    events = [
        report("in_service", MARCH, unit, contract_id=active.pk, line_id=servers) for unit in ("u-1", "u-2")
    ]
    outage = [("down", OUTAGE), ("in_service", OUTAGE + 9 * HOUR)]
    record(
        *events,
        *(report(s, at, contract_id=active.pk, line_id=servers) for s, at in outage),
        at=MARCH + 11 * DAY,
    )
    return active


def credits(contract: Contract, at: datetime = APRIL, **given: Any) -> list[tuple[int, int]]:
    lines = services.desired(contract.pk, **{"start": MARCH, "end": MAY, "at": at, **given})
    return [(line.net_minor, line.tax_minor) for line in lines if line.kind == "sla_credit"]


def reads_of_events(run: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as asked:
        run()
    return sum(f'FROM "{ServiceEvent._meta.db_table}"' in query["sql"] for query in asked)


def test_what_was_reported_is_credited_when_the_period_is_over(failed: Contract) -> None:
    assert credits(failed, APRIL - HOUR) == []
    assert credits(failed) == [(-180_000, -14_850)]
    assert credits(failed, end=APRIL - HOUR) == []


def test_a_corrected_report_takes_the_credit_back_and_it_was_owed_as_known_before(
    failed: Contract, servers: UUID
) -> None:
    down = ServiceEvent.objects.get(state="down")
    named = {"contract_id": failed.pk, "line_id": servers, "corrects": down.source_event_id}
    record(report("void", OUTAGE, **named), at=APRIL + DAY)
    assert credits(failed, APRIL + 2 * DAY) == []
    then = [
        report.recorded_at - timedelta.resolution for report in (down, ServiceEvent.objects.get(state="void"))
    ]
    assert [credits(failed, known_at=known_at) for known_at in then] == [[], [(-180_000, -14_850)]]


def test_events_are_read_once_for_all_periods_and_not_where_no_credit_is_promised(failed: Contract) -> None:
    year = {"start": MARCH, "end": MARCH + 365 * DAY, "at": MARCH + 365 * DAY}
    assert reads_of_events(lambda: services.desired(failed.pk, **year)) == 1
    running = {**year, "end": MARCH + 20 * DAY}
    assert reads_of_events(lambda: services.desired(failed.pk, **running)) == 0
    silent = {"sla": {"auto_credit": False}}
    edit(failed, "change_terms", silent, at=MARCH + 12 * DAY, reason="Claims only", effective_at=MARCH + DAY)
    assert reads_of_events(lambda: services.desired(failed.pk, **year)) == 0
    assert credits(failed) == []


def test_a_preview_says_what_another_price_makes_of_a_credit(failed: Contract, servers: UUID) -> None:
    halved = {"line_id": str(servers), "price": {"model": "unit", "rate": "9000.00"}}
    seen: list[Any] = []

    def look() -> None:
        wanted = OperationRequest("change_price", halved, effective_at=MARCH, reason="As promised")
        found = services.preview_edits(
            contract_id=failed.pk, operations=[wanted], actor=OPERATOR, at=APRIL + DAY,
            expected_version=failed.version,
        )  # fmt: skip
        seen.extend(found.bills)

    assert reads_of_events(look) == 1
    (credit,) = (bill for bill in seen if bill.owed.kind == "sla_credit")
    assert (credit.net_before, credit.net_after) == (-180_000, -90_000)


def test_the_buyer_and_the_lines_seller_read_a_credit_and_no_other_party(
    failed: Contract, parties: Parties, clock: Callable[[datetime], None]
) -> None:
    clock(APRIL + DAY)
    path = f"contracts/{failed.pk}/desired-lines/?start=2027-03-01T00:00:00Z&end=2027-04-01T00:00:00Z"

    def read(party: Any) -> list[tuple[int, str]]:
        items = Api(party).get(path).json()["items"]
        return [
            (one["net"]["amount_minor"], one["funded_by"]) for one in items if one["kind"] == "sla_credit"
        ]

    assert read(parties.buyer) == [(-180_000, "")]
    assert read(parties.seller) == [(-180_000, "seller")]
    assert read(parties.partner) == []


def test_the_console_shows_the_credit_of_a_period_that_is_over(
    browser: Callable[[str], Client], failed: Contract, clock: Callable[[datetime], None]
) -> None:
    def shown() -> str:
        answer = browser("viewer").get(page(failed, "?tab=what-it-bills&period=2027-03-05"))
        assert answer.status_code == 200
        return answer.content.decode()

    clock(APRIL - HOUR)
    assert "credit for missed uptime" not in shown()
    clock(APRIL + DAY)
    assert "credit for missed uptime" in shown()
    assert "1,800.00" in shown()

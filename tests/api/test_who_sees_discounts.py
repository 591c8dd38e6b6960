"""A seller reads the discounts that it bears a part of, on its own lines, and nothing of anybody else's."""

from typing import Any

import pytest

from commerce.ids import uuid7
from commerce.parties.models import Organization
from contracts.services.edits import OperationRequest, record
from tests.api.test_who_sees_what import BILL, DAY, Shared, parties, payload, shared
from tests.contracts.conftest import MARCH, OPERATOR, edit

__all__ = ["parties", "payload", "shared"]
pytestmark = pytest.mark.django_db

NOW = MARCH + 7 * DAY
SPLIT = {"kind": "split", "seller_share": "0.35"}
PLATFORM = {"kind": "platform"}


def give(shared: Shared, **said: Any) -> str:
    """Record a discount, of ten per cent unless said otherwise, as two people would; its id."""
    id_ = said.pop("discount_id", None) or str(uuid7())
    what = (
        said if "kind" in said or said.get("mode") == "end" else {"kind": "percent", "percent": "0.1", **said}
    )
    record(
        shared.contract.pk,
        [OperationRequest("apply_discount", {"discount_id": id_, **what})],
        actor=OPERATOR, at=NOW, idempotency_key=str(uuid7()),
        expected_version=None, pointer="", approved=True,
    )  # fmt: skip
    shared.contract.refresh_from_db()
    return id_


@pytest.fixture
def running(shared: Shared) -> Shared:
    edit(shared.contract, "resume", {"reason": "non_payment"}, at=NOW)
    shared.contract.refresh_from_db()
    return shared


def section(shared: Shared, organization: Organization) -> Any:
    """The document's table of discounts; None when it has none."""
    found = [one for one in shared.get(organization, "document/")["sections"] if one["title"] == "Discounts"]
    return found[0] if found else None


def newest(shared: Shared, organization: Organization) -> Any:
    edits = shared.edits(organization)
    return edits[max(edits)]["payload"]


def test_a_seller_sees_a_discount_that_it_bears_on_its_own_lines(running: Shared) -> None:
    both = [running.northwinds_line, running.southwinds_line]
    id_ = give(running, scope=both, funded_by=SPLIT, coupon_code="SPRING-27")
    for seller, line in zip((running.parties.seller, running.parties.other_seller), both, strict=True):
        found = running.get(seller)["discounts"]
        assert found == {
            id_: {
                "discount_id": id_, "kind": "percent", "percent": "0.1", "ramp": [], "stack_order": 0,
                "since": "2027-03-08T00:00:00Z", "seller_share": "0.35", "scope": [line],
            }
        }  # fmt: skip
        assert newest(running, seller) == {
            "discount_id": id_, "kind": "percent", "percent": "0.1", "ramp": [], "stack_order": 0,
            "duration": {"kind": "forever"}, "funded_by": SPLIT, "scope": [line],
        }  # fmt: skip
        table = section(running, seller)
        assert table["columns"][-1] == "Borne by the seller"
        assert [row[0] for row in table["rows"]] == ["10 %"]
        assert [row[-1] for row in table["rows"]] == ["35 %"]
        version = running.contract.version
        steps = running.get(seller, "timeline/")["items"]
        assert [set(one["contract"]["discounts"]) for one in steps if version in one["edits"]] == [{id_}]
        learned = running.get(seller, f"diff/?from_version={version - 1}")["items"]
        assert all(f"/discounts/{id_}/seller_share" in stretch["after"] for stretch in learned)
        assert learned[0]["start"] == "2027-03-08T00:00:00Z"
    text = running.everything(running.parties.seller)
    for secret in (running.southwinds_line, running.later_line, "SPRING-27"):
        assert secret not in text, secret
    assert id_ not in running.everything(running.parties.partner)


def test_a_discount_on_everything_is_on_the_sellers_own_lines(running: Shared) -> None:
    id_ = give(running, funded_by={"kind": "seller"})
    body = running.get(running.parties.seller)
    assert body["discounts"][id_]["scope"] == "all"
    off = [one for one in running.get(running.parties.seller, BILL)["items"] if one["kind"] == "discount"]
    assert {(one["source_id"], one["line_id"]) for one in off} == {(id_, running.northwinds_line)}
    assert running.southwinds_line not in running.everything(running.parties.seller)
    assert "discounts" not in running.get(running.parties.partner)


def test_what_the_platform_bears_alone_is_nothing_to_a_seller(running: Shared) -> None:
    seller = running.parties.seller
    before, text = running.get(seller), running.everything(seller)
    bill = running.get(seller, BILL)
    id_ = give(running, funded_by=PLATFORM)
    after = running.get(seller)
    assert after["state_hash"] == before["state_hash"]
    assert running.get(seller, BILL) == bill
    assert set(running.edits(seller)) == {1, 2, 3, 4, 6, 9, 11}
    assert section(running, seller) is None
    assert id_ not in running.everything(seller)
    assert len(running.everything(seller)) == len(text), "but for the version nothing is told"
    assert id_ in running.everything(running.parties.buyer)


def test_a_discount_of_another_sellers_lines_is_nothing_to_a_seller(running: Shared) -> None:
    seller, other = running.parties.seller, running.parties.other_seller
    before = running.get(seller)["state_hash"]
    id_ = give(running, scope=[running.southwinds_line], funded_by={"kind": "seller"})
    assert running.get(seller)["state_hash"] == before
    assert id_ not in running.everything(seller)
    assert set(running.edits(seller)) == {1, 2, 3, 4, 6, 9, 11}
    assert set(running.get(other)["discounts"]) == {id_}


@pytest.mark.parametrize(
    ("said", "secrets"),
    [
        (
            {"kind": "fixed_per_period", "amount": {"amount_minor": 7_654_321, "currency": "USD"}},
            ("7654321", "76,543.21", "76543.21"),
        ),
        ({"kind": "free_units", "units": "1.618"}, ("1.618",)),
    ],
)
def test_a_sum_over_other_sellers_lines_is_not_told_and_one_over_its_own_is(
    said: dict[str, Any], secrets: tuple[str, ...], running: Shared
) -> None:
    """Beside its own part of a sum the seller could reckon what the others' lines come to."""
    seller = running.parties.seller
    for scope in ("all", [running.northwinds_line, running.southwinds_line]):
        id_ = give(running, scope=scope, **said)
        assert set(running.get(seller)["discounts"]) == {id_}
        assert [row[0][:7] for row in section(running, seller)["rows"]] == ["part of"]
        text = running.everything(seller)
        for secret in secrets:
            assert secret not in text, (scope, secret)
        assert any(secret in running.everything(running.parties.buyer) for secret in secrets)
        give(running, discount_id=id_, mode="end")
    give(running, scope=[running.northwinds_line], **said)
    assert any(secret in str(running.get(seller)) for secret in secrets)
    assert any(secret in str(newest(running, seller)) for secret in secrets)
    assert any(secret in str(section(running, seller)) for secret in secrets)


def test_a_discount_that_the_platform_takes_over_ends_for_the_seller(running: Shared) -> None:
    seller = running.parties.seller
    id_ = give(running, funded_by=SPLIT)
    give(running, discount_id=id_, mode="replace", kind="percent", percent="0.2718", funded_by=PLATFORM)
    assert "discounts" not in running.get(seller)
    assert newest(running, seller) == {"discount_id": id_}
    assert "0.2718" not in running.everything(seller)
    give(running, discount_id=id_, mode="replace", kind="percent", percent="0.3141", funded_by=SPLIT)
    assert newest(running, seller)["percent"] == "0.3141"
    assert "mode" not in newest(running, seller), "whether there was one before is not told"
    give(running, discount_id=id_, mode="end")
    assert newest(running, seller) == {"discount_id": id_, "mode": "end"}


def test_a_buyer_that_sells_a_line_sees_its_own_share_and_no_other(running: Shared) -> None:
    buyer = running.parties.buyer
    Organization.objects.filter(pk=buyer.pk).update(roles=["buyer", "seller"])
    own = {
        "line_id": str(uuid7()), "product": "h100-server", "seller_id": str(buyer.pk), "quantity": 1,
        "price": {"model": "unit", "rate": "1.00"},
    }  # fmt: skip
    edit(running.contract, "add_product", own, at=NOW)
    borne = give(running, scope=[own["line_id"]], funded_by=SPLIT)
    others = give(running, scope=[running.northwinds_line], funded_by=SPLIT)
    found = running.get(buyer)["discounts"]
    assert found[borne]["seller_share"] == "0.35"
    assert "seller_share" not in found[others]
    assert [row[-1] for row in section(running, buyer)["rows"]] == ["35 %", "–"]

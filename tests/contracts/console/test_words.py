"""What an operator reads: names and words for ids and fields, what changed and no more, who bears what."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags

from commerce.console.approvals import approve
from commerce.ids import uuid7
from commerce.outbox import drain
from commerce.parties.models import Organization
from contracts.admin.choices import line_label
from contracts.admin.words import Names, fields_of, named_in, phrase
from contracts.models import Contract, ContractEdit, PlatformTerms, ScheduledCommand, UnitStatus
from contracts.rules.state import Tier
from contracts.services import OperationRequest, request_edits, terms
from tests.contracts.conftest import MARCH, Parties, create, edit
from tests.contracts.console.conftest import form_of, page, preview
from tests.contracts.console.test_bulk import people

__all__ = ["people"]
pytestmark = pytest.mark.django_db
Browser = Callable[[str], Client]


def said(key: str, value: Any, currency: str = "USD") -> str:
    return " ".join(strip_tags(str(phrase(key, value, Names(), currency))).split())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("uplift", {"kind": "percent", "value": "0.035", "cap": "0.05"}, "percent, value 3.5 %, cap 5 %"),
        ("lender", {"kind": "platform"}, "platform"),
        ("prepayment_penalty", "0.02", "2 %"),
        ("first_due_on", "2027-06-01", "1 Jun 2027"),
        ("tiers", [{"below": "0.999", "credit": "0.05"}, {"below": "0.95", "credit": "0.3"}],
         "below 99.9 %, credit 5 %; below 95 %, credit 30 %"),
        ("tiers", [{"up_to": "100", "rate": "2.5"}, {"rate": "2", "flat_minor": 500}],
         "up to 100: 2.50 USD, above: 2.00 USD and 5.00 USD once"),
        ("", {"scope": "all", "kind": "percent", "percent": "0.1", "seller_share": "0", "units": "0"},
         "scope everything, percent 10 %, seller share 0 %"),
        ("", {"charge_id": f"{uuid7()}:payoff", "kind": "financing_payoff", "amount_minor": 100},
         "financing payoff, amount 1.00 USD"),
        ("labels", ["gpu", "north"], "gpu, north"),
    ],
)  # fmt: skip
def test_a_value_is_said_in_words(key: str, value: Any, words: str) -> None:
    assert said(key, value) == words


def test_an_amount_without_a_currency_is_in_minor_units() -> None:
    assert said("late_fee_minor", 1500, "") == "1,500 minor units"
    assert "15.00" in said("late_fee_minor", 1500)


def test_a_sentence_of_the_rules_names_lines_and_organizations() -> None:
    line, other = uuid7(), uuid7()
    names = Names(lines={str(line): "h100-server"})
    text = named_in(f"Line {line} was removed, {other} was not.", names)
    assert text == f"Line h100-server was removed, …{str(other)[-8:]} was not."


def test_fields_leave_out_ids_and_what_says_nothing() -> None:
    text = strip_tags(
        str(fields_of({"discount_id": str(uuid7()), "apr": "0.09", "note": ""}, Names(), "USD"))
    )
    assert text == "APR9 %"


def test_of_signatures_the_log_says_which_were_added(
    browser: Browser, active: Contract, parties: Parties
) -> None:
    again = {"party": str(parties.buyer.pk), "name": "Ann again", "at": "2027-03-01T00:00:00Z"}
    consents = [again, {"party": str(parties.partner.pk), "name": "Bo", "at": "2027-03-01T00:00:00Z"}]
    others = Organization.objects.filter(pk=parties.partner.pk)
    others.update(roles=["partner", "buyer"], onboarding_status="active")
    payload = {"party": "buyer", "new_party_id": str(parties.partner.pk), "consents": consents}
    edit(active, "transfer_ownership", payload, at=MARCH + timedelta(days=3), reason="Sold")
    text = browser("viewer").get(page(active, "?tab=versions")).content.decode()
    newest = text.partition("Transfer ownership")[2].partition("</tr>")[0]
    assert "Ann again" in newest
    for signature in active.current.signatures:
        assert signature.name not in newest, "those that were there are not what changed"


def test_a_refusal_names_the_line_and_not_its_id(browser: Browser, active: Contract, servers: UUID) -> None:
    edit(
        active,
        "change_quantity",
        {"line_id": str(servers), "quantity": 3},
        effective_at=MARCH + timedelta(days=9),
    )
    refused = preview(browser("operator"), active, "remove-product", line_id=str(servers))
    assert refused.status_code == 409
    notice = refused.content.decode().partition("c-notice c-bad")[2].partition("</")[0]
    assert "h100-server" in notice
    assert str(servers) not in notice


def test_an_agreement_says_its_own_fields_and_who_bears_it(
    browser: Browser, active: Contract, people: dict[str, Any]
) -> None:
    discount = {
        "discount_id": str(uuid7()), "kind": "percent", "percent": "0.1", "funded_by": {"kind": "platform"}
    }  # fmt: skip
    asked = request_edits(
        contract_id=active.pk, operations=[OperationRequest("apply_discount", discount)],
        expected_version=active.version, actor=people["operator"], at=MARCH, reason="Promised by phone",
    )  # fmt: skip
    approve(approval=asked, actor=people["approver"], at=MARCH)
    viewer = browser("viewer")
    text = viewer.get(page(active)).content.decode().partition("Agreements")[2].partition("</section>")[0]
    for word, there in (("Seller share", True), ("Percent", True), ("Units", False), ("Amount", False)):
        assert (f"<dt>{word}</dt>" in text) is there, word
    row = ContractEdit.objects.get(contract=active, operation="apply_discount")
    shown = viewer.get(reverse("admin:contracts_contractedit_change", args=[row.pk])).content.decode()
    assert "operator" in strip_tags(shown)
    assert row.requested_by not in strip_tags(shown), "a person is said by name"
    assert "Promised by phone" in viewer.get(page(active, "?tab=approvals")).content.decode()


def test_a_line_of_an_ended_contract_is_not_live(browser: Browser, active: Contract) -> None:
    edit(active, "terminate", {"cause": "mutual"}, reason="They part")
    text = (
        browser("viewer").get(page(active)).content.decode().partition("<h2>Lines")[2].partition("</table")[0]
    )
    assert "ended" in text
    assert "live" not in strip_tags(text)


def test_lines_to_choose_from_say_how_they_are_priced(active: Contract) -> None:
    labels = [line_label(line) for line in active.current.live_lines]
    assert labels == ["2 × h100-server at 18,000.00 USD", "h100-burst at 2.00 USD"]
    burst = active.current.live_lines[1]
    tiers = (Tier(rate=Decimal("2.5"), up_to=Decimal(100)), Tier(rate=Decimal(2)))
    tiered = replace(burst, price=replace(burst.price, model="graduated", tiers=tiers))
    assert line_label(tiered) == "h100-burst, graduated"


def choices(client: Client, contract: Contract, form: str, field: str) -> list[str]:
    """What a select of an operation's form offers."""
    asked = client.get(form_of(contract, form)).context["form"]
    return [str(word) for _, word in asked.fields[f"payload.{field}"].choices]


def test_a_party_is_a_party_and_a_reason_is_a_reason(browser: Browser, active: Contract) -> None:
    operator = browser("operator")
    assert {"buyer", "seller"} <= set(choices(operator, active, "transfer-ownership", "party"))
    assert {"the buyer asked", "non-payment"} <= set(choices(operator, active, "suspend", "reason"))
    held = operator.get(form_of(active, "suspend")).context["form"].fields
    assert held["payload.reason"].label != held["reason"].label, "why it is held, and why it is recorded"


def test_a_tax_rate_is_not_per_unit(browser: Browser, active: Contract) -> None:
    operator = browser("operator")
    terms_of = operator.get(form_of(active, "change-terms")).context["form"].fields
    assert "unit" not in terms_of["payload.tax.rate"].help_text
    priced = operator.get(form_of(active, "change-price")).context["form"].fields
    assert "unit" in priced["payload.price.rate"].help_text


def test_an_instant_of_the_page_keeps_its_seconds(browser: Browser, active: Contract) -> None:
    asked = browser("viewer").get(page(active, "?valid_at=2027-03-05T10:11:12")).content.decode()
    assert 'name="valid_at" value="2027-03-05T10:11:12"' in asked


def test_platform_terms_are_said_like_a_contracts(browser: Browser, people: dict[str, Any]) -> None:
    base = terms.latest()
    asked = terms.request_platform_terms(
        changes={"settlement": {"fee_rate": "0.1"}}, expected_version=base.version,
        actor=people["operator"], at=MARCH, reason="Agreed",
    )  # fmt: skip
    approve(approval=asked, actor=people["approver"], at=MARCH)
    row = PlatformTerms.objects.latest("version")
    url = reverse("admin:contracts_platformterms_change", args=[row.pk])
    text = " ".join(strip_tags(browser("viewer").get(url).content.decode()).split())
    for words in ("99.9 %", "from the wallet", "OpenMeter", "SLA", "Settlement fee rate0 %10 %"):
        assert words in text, words
    for raw in ("wallet_auto", "openmeter", "0.999", row.made_by, row.approved_by):
        assert raw not in text, raw


def test_a_scheduled_command_and_a_unit_are_said_without_json_and_ids(
    browser: Browser, payload: dict[str, Any], clock: Any
) -> None:
    payload["lines"][0]["unit_ids"] = ["rack-a", "rack-b"]
    payload["terms"]["renewal"] = {"auto": True}
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    command = ScheduledCommand.objects.filter(contract=contract, operation="renew").get()
    drain(groups=["contracts.service"])
    unit = UnitStatus.objects.filter(contract=contract).first()
    assert unit is not None
    viewer = browser("viewer")
    shown = viewer.get(reverse("admin:contracts_scheduledcommand_change", args=[command.pk])).content.decode()
    assert "mode new term, term number 2" in strip_tags(shown)
    assert "new_term" not in strip_tags(shown)
    shown = viewer.get(reverse("admin:contracts_unitstatus_change", args=[unit.pk])).content.decode()
    assert "h100-server" in strip_tags(shown)
    assert str(unit.line_id) not in strip_tags(shown)

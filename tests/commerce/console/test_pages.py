"""The pages: home shows what waits, search routes on references, every page is finished and safe."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone

from commerce.api.models import ApiKey
from commerce.api.services import issue_key
from commerce.console import charts, format, registry
from commerce.console.models import ReviewItem
from commerce.console.registry import Card, CardValue, Hit, TimelineRow
from commerce.console.theme import navigation
from commerce.outbox.models import Circuit, OutboxEvent, OutboxStream
from commerce.parties.models import Organization
from tests.commerce.console.conftest import AT, SYSTEM, fingerprint_on

Browser = Callable[..., Client]


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_cards", "_sections"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(registry, "_searches", [])


def text(page: Any) -> str:
    assert page.status_code == 200, page.status_code
    return page.content.decode()


@pytest.mark.usefixtures("_own_registry")
def test_a_card_shows_count_age_and_value_or_that_nothing_waits(browser: Browser, clock: Any) -> None:
    value = CardValue(12_345, AT - timedelta(days=3, hours=5), {"USD": 316750000, "EUR": 0})
    registry.register_card(Card("full", "Failed payouts", "/x/", lambda request: value))
    registry.register_card(Card("none", "Parked", "/y/", lambda request: CardValue(0), empty="All is well."))
    page = text(browser("viewer").get("/admin/"))
    assert "12,345" in page
    assert "oldest 3 d" in page
    assert "3,167,500.00" in page
    assert '">EUR' not in page
    assert "All is well." in page


@pytest.mark.usefixtures("_own_registry")
def test_a_card_is_hidden_from_who_may_not_open_its_list(browser: Browser) -> None:
    def never(request: Any) -> CardValue:
        raise AssertionError("asked for a card that may not be seen")

    registry.register_card(Card("secret", "Secret", "/x/", never, permission="auth.view_user"))
    assert "Secret" not in text(browser("viewer").get("/admin/"))


def test_home_counts_what_waits_for_a_person(browser: Browser, item: ReviewItem, clock: Any) -> None:
    viewer = browser("viewer")
    assert "No question is open." not in text(viewer.get("/admin/"))
    ReviewItem.objects.update(snoozed_until=AT + timedelta(days=1))
    assert "No question is open." in text(viewer.get("/admin/"))
    clock(AT + timedelta(days=2))
    assert "No question is open." not in text(viewer.get("/admin/"))


def test_the_badge_names_the_environment_and_the_business_clock(browser: Browser, clock: Any) -> None:
    assert "1 Mar 2027 00:00 test clock" in text(browser("viewer").get("/admin/"))


def test_one_entry_of_the_menu_is_current_on_each_page(browser: Browser) -> None:
    """A page below another one in the address is not the other one; what has no entry has its nearest."""

    def current(path: str) -> list[str]:
        request = viewer.get(path).wsgi_request
        return [item["title"] for group in navigation(request) for item in group["items"] if item["active"]]

    viewer = browser("viewer")
    assert current("/admin/") == ["Home"]
    assert current("/admin/ledger/ledgeraccount/") == ["Accounts"]
    assert current("/admin/ledger/ledgeraccount/?kind__exact=AVAILABLE") == ["Accounts"]
    assert current("/admin/ledger/ledgeraccount/trial-balance/?by=owner") == ["Trial balance"]
    assert current("/admin/ledger/ledgeraccount/1/change/") == ["Accounts"]
    assert current("/admin/password_change/") == []
    links = [
        item["link"] for group in navigation(viewer.get("/admin/").wsgi_request) for item in group["items"]
    ]
    assert len(links) > 20
    for link in links:
        assert len(current(link)) == 1, link


@pytest.mark.usefixtures("_own_registry")
def test_search_asks_with_the_term_as_typed_and_within_permissions(browser: Browser) -> None:
    asked: list[str] = []

    def find(term: str) -> list[Hit]:
        asked.append(term)
        return [Hit(f"Invoice {term} {i}", f"/i/{i}", "invoice") for i in range(50)]

    registry.register_search(find)
    registry.register_search(lambda term: 1 / 0, permission="auth.view_user")  # type: ignore[arg-type,return-value]
    page = text(browser("viewer").get("/admin/search/?s=INV-1&extended=1"))
    assert asked == ["INV-1"]
    assert page.count("Invoice INV-1") == 2 * 20
    assert "Invoice IN" not in text(browser("operator").get("/admin/search/?s=IN&extended=1"))


def test_what_somebody_wrote_is_shown_not_run(browser: Browser, item: ReviewItem) -> None:
    evil = "<script>alert(1)</script>"
    ReviewItem.objects.update(title=evil, detail=evil, evidence={"x": evil}, assignee=evil, kind=evil)
    viewer = browser("operator")
    for url in ("", f"{item.pk}/change/", f"{item.pk}/do/resolve/"):
        assert evil not in text(viewer.get(f"/admin/console/reviewitem/{url}"))


def test_a_list_finds_by_exact_reference_only(browser: Browser, item: ReviewItem) -> None:
    viewer = browser("viewer")
    listing = "/admin/console/reviewitem/?q="
    assert item.title in text(viewer.get(listing + str(item.pk)))
    for term in ("INV-1", "not-a-uuid", "1 OR 1=1"):
        assert item.title not in text(viewer.get(listing + term))


def test_a_list_counts_no_further_than_its_cap(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commerce.console.paginator.LIMIT", 60)
    ReviewItem.objects.bulk_create(
        ReviewItem(kind="k", subject_type="x.y", subject_id=str(i), title=f"Item {i}.", opened_at=AT)
        for i in range(100)
    )
    viewer = browser("viewer")
    assert "60 review items" in " ".join(text(viewer.get("/admin/console/reviewitem/")).split())
    assert viewer.get("/admin/console/reviewitem/?p=2").status_code == 200
    assert viewer.get("/admin/console/reviewitem/?p=3").status_code == 302


def stream(**more: Any) -> OutboxStream:
    event = OutboxEvent.objects.create(
        aggregate_type="contract", aggregate_id="first-contract", sequence=1, type="contract.activated",
        payload={"number": "C-1"}, occurred_at=AT,
    )  # fmt: skip
    return OutboxStream.objects.create(
        aggregate_type="contract", aggregate_id="first-contract", group="billing.openmeter",
        pending_since=event.recorded_at, **more,
    )  # fmt: skip


def test_an_operator_resumes_a_parked_stream(browser: Browser) -> None:
    row = stream(parked_at=timezone.now(), parked_reason="Rejected: no such customer")
    page = f"/admin/outbox/outboxstream/{row.pk}/"
    operator = browser("operator")
    assert "contract.activated" in text(operator.get(f"{page}change/"))
    assert "/do/resume/" not in text(browser("viewer").get(f"{page}change/"))
    confirmation = operator.get(f"{page}do/resume/")
    assert "no such customer" in text(confirmation)
    answer = operator.post(
        f"{page}do/resume/", {"reason": "Customer made.", "fingerprint": fingerprint_on(confirmation)}
    )
    assert answer.status_code == 302
    row.refresh_from_db()
    assert row.parked_at is None
    assert row.due_at is not None
    assert browser("viewer").get(f"{page}do/park/").status_code == 403


def test_who_parked_a_stream_is_named_and_why_a_line_waits_is_said(browser: Browser) -> None:
    operator = User.objects.get(username="operator")
    row = stream(lane="openmeter", parked_at=timezone.now(), parked_reason=f"user:{operator.pk}: A holiday.")
    page, viewer = f"/admin/outbox/outboxstream/{row.pk}/change/", browser("viewer")
    assert "operator: A holiday." in text(viewer.get(page))
    assert "A person parked it" in text(viewer.get(page))
    row.parked_at, row.parked_reason, row.due_at = None, "", timezone.now()
    row.save()
    assert "it goes by itself" in text(viewer.get(page))
    Circuit.objects.create(
        lane="openmeter", paused_at=timezone.now(), paused_reason="system:cli: Certificates."
    )
    said = text(viewer.get(page))
    assert "A person paused the line to openmeter" in said
    assert "it goes by itself" not in said
    assert page in text(viewer.get("/admin/outbox/circuit/openmeter/change/"))


def test_the_page_of_an_object_says_which_subscriber_is_not_told_of_it_and_why(browser: Browser) -> None:
    platform = Organization.objects.platform()
    about = f"/admin/parties/organization/{platform.pk}/change/"
    row = OutboxStream.objects.create(
        aggregate_type="organization", aggregate_id=str(platform.pk), group="parties.modern_treasury",
        pending_since=AT, due_at=timezone.now(),
    )  # fmt: skip
    operator, page = browser("operator"), f"/admin/outbox/outboxstream/{row.pk}/change/"
    assert page not in text(operator.get(about)), "what is only due is not held up"
    row.due_at, row.parked_at, row.parked_reason = None, timezone.now(), "Rejected: no such party"
    row.save()
    assert page in text(operator.get(about))
    assert "Rejected: no such party" in text(operator.get(about))
    assert page not in text(browser("admin").get(about)), "who may not see streams is shown one"


def test_the_relays_lists_hide_heads_and_find_by_aggregate(browser: Browser) -> None:
    page = f"/admin/outbox/outboxstream/{stream().pk}/change/"
    OutboxStream.objects.create(aggregate_type="contract", aggregate_id="second-contract", group="")
    viewer = browser("viewer")
    listing = text(viewer.get("/admin/outbox/outboxstream/"))
    assert "first-contract" in listing
    assert "second-contract" not in listing
    assert page in text(viewer.get("/admin/outbox/outboxstream/?q=contract:first-contract"))
    assert page not in text(viewer.get("/admin/outbox/outboxstream/?q=contract:third-contract"))
    for chosen in ("condition=parked", "condition=working", "lane=openmeter", "group=billing.openmeter"):
        assert page not in text(viewer.get(f"/admin/outbox/outboxstream/?{chosen}")), "it is idle"
    event = OutboxEvent.objects.get()
    assert "C-1" in text(viewer.get(f"/admin/outbox/outboxevent/{event.pk}/change/"))


def test_an_administrator_revokes_a_key_and_sees_no_money(browser: Browser) -> None:
    platform = Organization.objects.platform()
    key, plain = issue_key(organization=platform, scopes=["ledger:read"], label="bi", actor=SYSTEM, at=AT)
    admin = browser("admin")
    page = f"/admin/api/apikey/{key.pk}/"
    assert plain not in text(admin.get(f"{page}change/"))
    data = {"reason": "Leaked.", "fingerprint": fingerprint_on(admin.get(f"{page}do/revoke/"))}
    assert admin.post(f"{page}do/revoke/", data).status_code == 302
    assert ApiKey.objects.get().revoked_at is not None
    assert admin.get("/admin/console/reviewitem/").status_code == 403
    assert browser("operator").get(f"{page}change/").status_code == 403


def test_an_administrator_edits_others_but_neither_themselves_nor_a_superuser(browser: Browser) -> None:
    admin = browser("admin")
    root = User.objects.create_superuser("root", password="x")
    change = "/admin/auth/user/{}/change/"
    assert "_save" in text(admin.get(change.format(User.objects.get(username="viewer").pk)))
    for untouchable in (root, User.objects.get(username="admin")):
        page = change.format(untouchable.pk)
        assert "_save" not in text(admin.get(page))
        assert admin.post(page, {"username": "x"}).status_code == 403
    assert browser("viewer").get("/admin/auth/user/").status_code == 403


def test_nobody_becomes_operator_and_approver(browser: Browser) -> None:
    person = User.objects.get(username="viewer")
    both = Group.objects.filter(name__in=["operator", "approver"]).values_list("pk", flat=True)
    page = f"/admin/auth/user/{person.pk}/change/"
    answer = browser("admin").post(page, {"username": "viewer", "is_active": "on", "groups": list(both)})
    assert "never the same person" in text(answer)
    assert [group.name for group in person.groups.all()] == ["viewer"]
    one = {"username": "viewer", "is_active": "on", "groups": [both[0]]}
    assert browser("admin").post(page, one).status_code == 302


def test_every_page_carries_its_content_security_policy(browser: Browser) -> None:
    for url in ("/admin/", "/admin/login/", "/admin/console/reviewitem/"):
        page = browser("viewer").get(url, follow=True)
        rules = dict(rule.split(" ", 1) for rule in page["Content-Security-Policy"].split("; "))
        assert rules["default-src"] == "'self'"
        assert "'unsafe-inline'" not in rules["script-src"]
        assert rules["frame-ancestors"] == rules["object-src"] == rules["base-uri"] == "'none'"
        assert "no-store" in page["Cache-Control"]
    elsewhere = Client().get("/nothing")
    assert elsewhere["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_demo_users_do_not_exist_in_production(db: None, settings: Any) -> None:
    from commerce.console.demo_users import ensure_demo_users
    from commerce.errors import Conflict

    settings.PRODUCTION = True
    with pytest.raises(Conflict):
        ensure_demo_users()
    assert not User.objects.exists()


def test_a_timeline_merges_its_feeds_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from commerce.console.base import timeline_of

    def feed(*hours: int) -> registry.Timeline:
        return lambda obj: [TimelineRow(AT + timedelta(hours=h), "k", str(h)) for h in hours]

    monkeypatch.setattr(registry, "timelines", lambda model: [feed(1, 4), feed(3, 2)])
    assert [row.title for row in timeline_of(ReviewItem())] == ["4", "3", "2", "1"]


def test_money_is_written_with_its_currency_and_a_real_minus() -> None:
    assert "1,234.56" in format.money(123456, "USD")
    assert "USD" in format.money(123456, "USD")
    assert "−5" in format.money(-5, "JPY")
    assert "c-negative" in format.money(-5, "JPY")
    assert format.money(None, "USD") == format.NOTHING


def test_a_state_is_a_word_with_a_colour() -> None:
    assert "past due" in format.badge("past_due")
    assert "c-warn" in format.badge("past_due")
    assert "c-plain" in format.badge("never_heard_of")
    assert "<script>" not in format.badge("<script>")


def test_charts_say_what_would_be_there_and_draw_what_is() -> None:
    days = [(date(2027, 3, day), 0, 0) for day in range(1, 15)]
    assert "No USD came in" in charts.cash_flow(days, "USD")
    days[3] = (date(2027, 3, 4), 500, 250)
    picture = charts.cash_flow(days, "USD")
    assert picture.count("<rect") == 28
    assert "2027-03-04 in: 5.00 USD" in picture
    assert "Nothing is outstanding." in charts.ageing({"USD": [0, 0, 0, 0, 0]})
    assert "width:75.00%" in charts.ageing({"USD": [300, 0, 100, 0, 0]})
    assert "&lt;b&gt;" in charts.table(["A"], [["<b>"]])
    assert 'class="c-right">5' in charts.table([">A"], [[5]])

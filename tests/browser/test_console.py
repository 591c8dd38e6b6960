"""Every page of the console is finished, for everyone who may open it; what it says is the worked example."""

import re
from collections.abc import Callable

from django.contrib import admin
from django.utils.text import capfirst

from tests.browser.conftest import Desk

Desks = Callable[..., Desk]
LISTS = {
    f"/admin/{model._meta.app_label}/{model._meta.model_name}/": model._meta for model in admin.site._registry
}


def menu(desk: Desk) -> set[str]:
    """The lists that the navigation offers this person."""
    desk.open("/admin/")
    links = desk.page.eval_on_selector_all("a", "links => links.map(link => link.getAttribute('href'))")
    return {link for link in links if link and re.fullmatch(r"/admin/\w+/\w+/", link)}


def open_lists(desk: Desk, paths: set[str]) -> None:
    """Each list, and the first object on it."""
    for path in sorted(paths):
        plural = capfirst(LISTS[path].verbose_name_plural)
        name = path.strip("/").replace("/", "_").removeprefix("admin_")
        desk.open(path, picture=f"list_{name}")
        assert desk.page.title() == f"{plural} | Commerce"
        rows = desk.rows()
        if not rows:
            desk.says(f"No {LISTS[path].verbose_name_plural} yet", "What would be here")
            continue
        desk.open(rows[0], picture=f"one_{name}")
        assert desk.page.title().endswith(" | Commerce")


def test_a_viewer_opens_every_page_of_the_business(desk: Desks) -> None:
    viewer = desk("viewer")
    paths = menu(viewer)
    assert {
        "/admin/contracts/contract/",
        "/admin/outbox/outboxstream/",
        "/admin/console/reviewitem/",
    } <= paths
    open_lists(viewer, paths)
    assert viewer.page.locator("a[href*='/do/']").count() == 0


def test_an_administrator_opens_the_pages_of_access_and_both_menus_hold_all_there_is(desk: Desks) -> None:
    administrator, viewer = desk("admin"), desk("viewer")
    paths = menu(administrator)
    assert paths | menu(viewer) == set(LISTS)
    open_lists(administrator, paths)


def test_home_says_what_waits_and_what_the_platform_holds(desk: Desks) -> None:
    for name in ("viewer", "operator", "approver"):
        someone = desk(name)
        someone.open("/admin/", picture=f"home_{name}")
        someone.says("development ·", "test clock", "Review items", "Payouts to approve", "Balances by class")
        someone.says("118,098.75 USD", "110,813.50 USD", "2,986.50 USD", "4,298.75 USD", "Cash in and out")
        card = someone.page.locator(".c-card", has_text="Review items")
        assert "31,675.00 USD" in " ".join(card.inner_text().split())


def test_a_dollar_is_followed_from_the_contract_to_the_bank_and_back(desk: Desks) -> None:
    operator = desk("operator")
    operator.open("/admin/contracts/contract/")
    operator.follow("C-2027-0001", within="#result_list", picture="dollar_1_contract")
    operator.says("18,000.00 USD / server-month", "12.5 %", "active", "Change a quantity")
    operator.follow("Timeline", within=".c-tabs", picture="dollar_1_timeline")
    operator.says("Go live (version", "INV-2027-000001 paid")
    operator.follow("Invoices", within=".c-tabs")
    operator.follow("INV-2027-000001", within="#invoices", picture="dollar_2_invoice")
    operator.says("39,186.50 USD", "36,200.00 USD", "2,986.50 USD", "verified", "h100-burst")
    operator.follow("Collect", within="#ledger", picture="dollar_3_collection")
    operator.says("31,675.00 USD", "226.25 USD", "4,298.75 USD", "2,986.50 USD", "balances")
    operator.follow("INV-2027-000001", within="#settlement", picture="dollar_4_settlement")
    operator.says("completed", "In = out + fees and tax + held ✓", "31,901.25 USD out", "7,285.25 USD fees")
    settlement = operator.page.url
    leg = operator.page.locator("#legs tr", has_text="31,675.00").get_by_role("link").first
    operator.press(leg, picture="dollar_5_leg")
    operator.says("31,675.00 USD", "paid out", "seller")
    operator.press(operator.page.locator("#payouts").get_by_role("link").first, picture="dollar_6_payout")
    operator.says("31,675.00 USD", "paid", "payment_order.completed", "GRINGOTTS BANK ••••")
    operator.follow("Confirm payout", within="#ledger")
    operator.says("Cash bank", "Payout in transit", "31,675.00 USD")
    operator.page.go_back()
    operator.follow("INV-2027-000001", within="#what-it-pays")
    assert operator.page.url == settlement
    for back in ("INV-2027-000001", "C-2027-0001"):
        operator.follow(back)
        assert operator.page.title().startswith(f"{back} | ")


def test_a_release_leads_to_its_leg_and_its_posting(desk: Desks) -> None:
    viewer = desk("viewer")
    viewer.open("/admin/ledger/ledgerrelease/")
    viewer.open(viewer.rows()[-1])
    viewer.says("released")
    viewer.press(viewer.page.locator("#content-main a", has_text="leg of"))
    assert "/payouts/settlementleg/" in viewer.page.url


def test_a_statement_runs_from_opening_to_closing(desk: Desks) -> None:
    viewer = desk("viewer")
    viewer.open("/admin/ledger/ledgeraccount/?kind__exact=AVAILABLE")
    viewer.open(viewer.rows()[-1], picture="statement")
    viewer.says("150,000.00 USD", "111,030.00 USD", "110,813.50 USD", "Collected INV-2027-000001", "Closing")


def test_an_action_asks_first_and_is_in_the_log_afterwards(desk: Desks) -> None:
    operator = desk("operator")
    operator.open("/admin/console/reviewitem/")
    item = operator.rows()[0]
    operator.open(item, picture="review_item")
    operator.says("open", "31,675.00 USD", "Bank inquiry", "Not possible while open.")
    operator.follow("Claim", within=".c-toolbar", picture="action_confirm")
    operator.says("The item becomes yours")
    operator.open(item)
    operator.says("Not possible while open.")
    operator.follow("Claim", within=".c-toolbar")
    operator.page.fill("[name=reason]", "I call the bank.")
    operator.press(operator.page.get_by_role("button", name="Claim"), picture="action_done")
    assert operator.page.url.endswith(item)
    operator.says("Claim: done.", "claimed", "open → claimed", "I call the bank.")
    assert "operator" in operator.page.inner_text("#timeline")
    operator.open(item.replace("/change/", "/history/"), picture="history")
    operator.says("Claim: I call the bank.", "operator")


def test_who_may_not_act_sees_no_button_and_gets_a_page_that_says_so(desk: Desks) -> None:
    viewer = desk("viewer")
    viewer.open("/admin/console/reviewitem/")
    item = viewer.rows()[0]
    viewer.open(item)
    assert viewer.page.locator("a[href*='/do/']").count() == 0
    for path, status, words in (
        (item.replace("change/", "do/resolve/"), 403, "This page is not for your group"),
        ("/admin/auth/user/", 403, "This page is not for your group"),
        ("/admin/no/such/page/", 404, "There is no such page"),
    ):
        answer = viewer.page.goto(f"{viewer.address}{path}")
        assert answer is not None
        assert answer.status == status
        viewer.inspect(f"problem_{status}")
        viewer.says(words, "Home")
    refused = [complaint for complaint in viewer.complaints if "the server responded with" in complaint]
    assert len(refused) >= 3
    viewer.complaints[:] = [complaint for complaint in viewer.complaints if complaint not in refused]


def test_log_in_search_and_the_dark(desk: Desks) -> None:
    visitor = desk()
    visitor.open("/admin/login/", picture="login")
    visitor.says("Commerce", "Username")
    night = desk("operator", color_scheme="dark")
    night.open("/admin/", picture="dark_home")
    assert night.page.locator("html.dark").count() == 1
    night.open("/admin/contracts/contract/")
    night.open(night.rows()[-1], picture="dark_contract")
    night.page.keyboard.press("Control+k")
    night.page.locator("#search-input-command:focus").wait_for()  # it takes the focus a moment after it shows
    night.page.keyboard.type("INV-2027-000001")
    night.page.get_by_text("settlement of INV-2027-000001").first.wait_for()
    night.page.screenshot(path=night.pictures / "dark_search.png")

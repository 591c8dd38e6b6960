"""The books in the console: what an account held at another instant, why, and that all of it balances."""

from collections.abc import Callable

from tests.browser.conftest import Desk

Desks = Callable[..., Desk]
BOOKS = "/admin/ledger/ledgeraccount/"


def test_the_trial_balance_proves_itself_now_and_then_and_leads_to_the_accounts(desk: Desks) -> None:
    viewer = desk("viewer")
    viewer.open("/admin/")
    viewer.press(
        viewer.page.locator("#content-main, main, body").get_by_role("link", name="Trial balance").last
    )
    viewer.inspect("ledger_trial_balance")
    viewer.says("118,098.75 USD", "110,813.50 USD", "balances")
    viewer.open(
        f"{BOOKS}trial-balance/?by=owner&valid_at=2027-03-02T00:00", picture="ledger_trial_balance_then"
    )
    viewer.says("150,000.00 USD", "Nothing can be done here", "Acme")
    viewer.open(f"{BOOKS}trial-balance/?by=class")
    viewer.says("Asset", "Liability", "Revenue", "4,298.75 USD")


def test_an_account_is_read_as_a_t_at_another_instant_and_explained(desk: Desks) -> None:
    viewer = desk("viewer", color_scheme="dark")
    viewer.open(f"{BOOKS}?kind__exact=AVAILABLE")
    viewer.press(viewer.page.locator("#result_list tbody a").first, picture="ledger_account_dark")
    viewer.says("T-account", "Debits", "Credits", "110,813.50 USD")
    account = viewer.page.url.removeprefix(viewer.address).partition("?")[0]
    viewer.open(f"{account}?valid_at=2027-03-01T23:00", picture="ledger_account_then_dark")
    viewer.says("Nothing can be done here")
    viewer.open(f"{account}?since=2027-01-01", picture="ledger_account_explained")
    viewer.says("By recipe", "Fund wallet", "Cash bank", "150,000.00 USD", "Largest movements")


def test_a_month_shows_what_closing_it_would_mean(desk: Desks) -> None:
    operator = desk("operator")
    operator.open("/admin/ledger/ledgerperiod/")
    operator.open(operator.rows()[0], picture="ledger_period")
    operator.says("March 2027", "Ask to reopen", "Not possible while open")
    operator.follow("Close", within="body", picture="ledger_period_close")
    operator.says("postings for March 2027 are recorded in the first open month", "debit", "credit")
    operator.follow("Cancel", within="body")
    operator.says("open")

"""A contract in the console: two instants, an operation in two steps, batches, comparisons, documents."""

from collections.abc import Callable

from tests.browser.conftest import Desk

Desks = Callable[..., Desk]
LIST = "/admin/contracts/contract/"
TABS = (
    "Lines and terms",
    "Timeline",
    "Versions",
    "Compare",
    "What it bills",
    "Invoices",
    "Settlements",
    "Ledger",
)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1400, "height": 900}


def page_of(desk: Desk) -> str:
    desk.open(LIST)
    desk.follow("C-2027-0001", within="#result_list")
    return desk.page.url.removeprefix(desk.address).partition("?")[0]


def test_every_tab_is_whole_in_the_light_in_the_dark_and_on_a_phone(desk: Desks) -> None:
    for look in ("light", "dark"):
        viewer = desk("viewer", color_scheme=look)
        contract = page_of(viewer)
        for tab in TABS:
            viewer.open(contract)
            viewer.follow(tab, within=".c-tabs", picture=f"contract_{look}_{tab.lower().replace(' ', '_')}")
            assert viewer.page.locator(".c-tabs [aria-current=page]").inner_text() == tab
        assert viewer.page.locator("a[href*='/do/']").count() == 0
        viewer.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        for tab in TABS:
            viewer.follow(tab, within=".c-tabs", picture=f"contract_phone_{tab.lower().replace(' ', '_')}")
        viewer.page.set_viewport_size(DESK)  # type: ignore[arg-type]


def test_an_operation_is_filled_in_seen_confirmed_and_in_the_log(desk: Desks) -> None:
    operator = desk("operator")
    contract = page_of(operator)
    operator.follow("Change the terms", within=".c-toolbar", picture="operation_1_form")
    operator.page.get_by_text("References", exact=True).click()
    operator.page.fill("[name='payload.references.po_number']", "PO-4711")
    operator.page.fill("[name=reason]", "The buyer's purchase order")
    operator.press(operator.page.get_by_role("button", name="Preview"), picture="operation_2_preview")
    operator.says("Nothing has been written", "PO number", "PO-4711", "No bill changes")
    operator.press(operator.page.get_by_role("button", name="Change", exact=True))
    assert operator.page.input_value("[name='payload.references.po_number']") == "PO-4711"
    operator.page.fill("[name='payload.references.po_number']", "PO-4712")
    operator.press(operator.page.get_by_role("button", name="Preview"))
    watched = desk("viewer")
    watched.open(f"{contract}?tab=versions")
    assert "PO-471" not in watched.text(), "a preview was recorded"
    operator.press(operator.page.get_by_role("button", name="Confirm"), picture="operation_3_done")
    operator.says("recorded as edit #", "PO-4712")
    operator.follow("Versions", within=".c-tabs", picture="operation_4_versions")
    operator.says("Change the terms", "The buyer's purchase order", "PO-4712")
    operator.follow("Compare", within=".c-tabs", picture="operation_5_compare")
    operator.says("PO-4712")


def test_a_refusal_stands_at_its_field(desk: Desks) -> None:
    operator = desk("operator")
    page_of(operator)
    operator.follow("Change a quantity", within=".c-toolbar")
    operator.page.select_option("[name='payload.line_id']", index=1)
    operator.page.fill("[name='payload.quantity']", "3")
    operator.page.fill("[name='payload.delta']", "1")
    operator.page.fill("[name=reason]", "Both at once")
    operator.press(operator.page.get_by_role("button", name="Preview"), picture="operation_refused")
    operator.says("Give either quantity or delta.")
    assert operator.page.input_value("[name='payload.quantity']") == "3"
    refused = [complaint for complaint in operator.complaints if "status of 422" in complaint]
    assert len(refused) == 1
    operator.complaints[:] = [complaint for complaint in operator.complaints if complaint not in refused]


def test_a_batch_is_collected_reordered_seen_and_emptied(desk: Desks) -> None:
    operator = desk("operator")
    contract = page_of(operator)
    for reason, number in (("First", "A-1"), ("Second", "A-2")):
        operator.open(f"{contract.replace('/change/', '/do/change-terms/')}?batch=1")
        operator.page.get_by_text("References", exact=True).click()
        operator.page.fill("[name='payload.references.po_number']", number)
        operator.page.fill("[name=reason]", reason)
        operator.press(operator.page.get_by_role("button", name="Add to the batch"))
    operator.inspect("batch_1")
    operator.press(operator.page.get_by_role("button", name="Move up"))
    operator.inspect("batch_2_reordered")
    words = operator.text()
    assert words.index("Second") < words.index("First")
    operator.says("What it would do", "A-1")
    operator.press(operator.page.get_by_role("button", name="Empty the batch"))
    operator.says("kept for you until you record it")


def test_another_instant_is_amber_and_offers_nothing_and_its_document_is_of_then(desk: Desks) -> None:
    operator = desk("operator")
    contract = page_of(operator)
    operator.page.get_by_text("At another instant").click()
    operator.page.fill("#valid_at", "2027-03-01T12:00")
    operator.press(operator.page.get_by_role("button", name="Show"), picture="contract_then")
    operator.says("Nothing can be done here", "1 Mar 2027 12:00:00")
    assert operator.page.locator("a[href*='/do/']").count() == 0
    operator.follow("Document", within=".c-strip", picture="contract_document")
    operator.says("as of 2027-03-01 12:00:00 UTC", "SHA-256 of what is agreed", "server-month")
    file = operator.page.request.get(f"{operator.address}{contract.replace('/change/', '/document.pdf')}")
    assert (file.status, file.body()[:5]) == (200, b"%PDF-")


def test_one_operation_on_many_is_planned_previewed_by_workers_and_stopped(desk: Desks) -> None:
    operator = desk("operator")
    operator.open(f"{LIST}?status__exact=active")
    operator.follow("Change many", within="body", picture="bulk_1_operation")
    operator.follow("Change the terms", within="body", picture="bulk_2_form")
    assert operator.page.input_value("[name=status]") == "active"
    operator.page.get_by_text("References", exact=True).click()
    operator.page.fill("[name='payload.references.notes']", "Moved to the new hall")
    operator.page.fill("[name=reason]", "All of them move")
    operator.press(operator.page.get_by_role("button", name="Store the plan"))
    operator.page.get_by_role("heading", name="Totals").wait_for(timeout=30_000)
    operator.inspect("bulk_3_ready")
    operator.says("Progress", "Totals", "C-2027-0001")
    operator.follow("Confirm", within=".c-toolbar", picture="bulk_4_confirm")
    operator.says("contracts are changed", "are left out")
    operator.page.go_back()
    operator.follow("Stop", within=".c-toolbar")
    operator.page.fill("[name=reason]", "Not today")
    operator.press(operator.page.get_by_role("button", name="Stop"), picture="bulk_5_stopped")
    operator.says("cancelled")

"""What was answered survives kill -9 of the sandbox; a torn last line does not stop it."""

from commerce.sandbox.store import Store


def test_everything_answered_is_there_after_kill_9(sandbox, billed, pay, invoices, use):
    subscription, order = billed(), pay("10003")
    use("u1", "5", "2027-03-02T00:00:00Z")
    sandbox.settle()
    before = sandbox.effects()
    sandbox.restart()
    assert sandbox.effects() == before
    assert sandbox.om.get(f"/subscriptions/{subscription['id']}").json()["status"] == "active"
    sandbox.at("2027-04-01T01:00:00Z")
    assert sandbox.mt.get(f"/payment_orders/{order['id']}").json()["status"] == "returned"
    assert [invoice["totals"]["total"] for invoice in invoices()] == ["36010"]


def test_steps_under_way_go_on_after_kill_9(sandbox, pay):
    order = pay()
    sandbox.restart()
    sandbox.settle()
    assert sandbox.mt.get(f"/payment_orders/{order['id']}").json()["status"] == "completed"


def test_ids_go_on_after_a_reset_so_that_none_is_seen_twice(sandbox):
    def create():
        return sandbox.mt.post("/counterparties", json={"name": "N"}).json()["id"]

    first = create()
    sandbox.reset()
    assert sandbox.effects()["modern_treasury"]["counterparty"] == []
    assert create() != first


def test_a_torn_last_line_is_forgotten_and_the_rest_kept(tmp_path):
    store = Store(tmp_path)
    store.put("things", {"id": "a", "n": 1})
    store.commit()
    store.patch("things", "a", n=2)
    store.put("things", {"id": "b"})
    store.commit()
    store.close()
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:-10])
    assert Store(tmp_path).rows("things") == [{"id": "a", "n": 1}]
    store.path.write_bytes(whole)
    assert Store(tmp_path).rows("things") == [{"id": "a", "n": 2}, {"id": "b"}]


def test_a_rollback_puts_every_old_row_back(tmp_path):
    store = Store(tmp_path)
    store.put("things", {"id": "a"})
    store.commit()
    store.remove("things", "a")
    store.put("things", {"id": "b"})
    store.rollback()
    assert store.rows("things") == [{"id": "a"}]
    store.commit()
    assert Store(tmp_path).rows("things") == [{"id": "a"}]

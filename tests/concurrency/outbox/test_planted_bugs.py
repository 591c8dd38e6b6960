"""What the interleavings are there for: each bug planted here is noticed by the one that is named with it."""

from collections.abc import Callable

import pytest

from commerce.errors import Rejected
from commerce.outbox import claims, events, relay
from tests.concurrency.outbox import test_leases as leases
from tests.concurrency.outbox import test_wake_ups as wake_ups
from tests.planted import Bug

pytestmark = pytest.mark.django_db(transaction=True)

Story = Callable[[pytest.MonkeyPatch], None]
BUGS: list[tuple[Bug, Story]] = [
    (
        Bug("a lease is ended by a stranger", claims, "_LOCK", ((" AND lease_token = %(token)s", ""),)),
        lambda patch: leases.test_a_holder_who_wakes_while_another_works_disturbs_it_in_nothing("local"),
    ),
    (
        Bug(
            "a failure is recorded without its lease",
            relay,
            "_record_failure",
            (("if row.lease_token != token:", "if False:"),),
        ),
        lambda patch: leases.test_the_failure_of_a_holder_who_was_overtaken_is_not_the_streams(
            "local", Rejected("no")
        ),
    ),
    (
        Bug(
            "a lease ends without a look for newer events",
            claims,
            "_FINISH",
            (("due_at = CASE WHEN done.more THEN now() END", "due_at = NULL"),),
        ),
        lambda patch: wake_ups.test_what_is_appended_after_the_read_keeps_the_stream_due("local", patch),
    ),
    (
        Bug(
            "a read goes by what its claim saw",
            claims,
            "_READ",
            (
                (
                    "%(cursors)s::bigint[]) WITH ORDINALITY claimed (id, cursor, place)",
                    "%(cursors)s::bigint[], %(since)s::timestamptz[]) WITH ORDINALITY"
                    " claimed (id, cursor, since, place)",
                ),
                ("recorded_at >= s.pending_since", "recorded_at >= claimed.since"),
            ),
        ),
        lambda patch: (
            wake_ups.test_an_older_transaction_that_appends_between_claim_and_read_is_not_overlooked(
                "local", patch
            )
        ),
    ),
    (
        Bug("an append wakes nobody", events, "_APPEND", (("COALESCE(s.due_at, now())", "s.due_at"),)),
        lambda patch: wake_ups.test_an_append_that_waits_for_the_finishing_relay_wakes_the_stream(
            "local", patch
        ),
    ),
]


@pytest.mark.parametrize(("bug", "story"), BUGS, ids=[str(bug) for bug, _ in BUGS])
def test_a_planted_bug_is_noticed(bug: Bug, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.plant(monkeypatch)
    with pytest.raises(AssertionError):
        story(monkeypatch)

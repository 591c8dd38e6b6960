"""Bugs planted into the database's own functions and triggers: the rule that each breaks must fail.

Every rule here is a test of its own that holds for the ledger as it is; the same rule is then asked
with the bug in place. A bug whose text is not found exactly once fails, so none is skipped silently.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from django.db import DatabaseError, connection, transaction

from commerce.embedded import REPOSITORY
from commerce.errors import CommerceError
from tests.ledger import rules


@dataclass(frozen=True)
class Bug:
    """`old` becomes `new` in the text of a function; without a function, `new` is a statement of its own."""

    name: str
    rule: Callable[[], None]
    function: str
    old: str
    new: str

    def __str__(self):
        return self.name.replace(" ", "_")


ORDER = "GROUP BY m.account, m.stripe ORDER BY m.account, m.stripe"
CONDITION = "b.posted + d.posted - b.held_dr - d.held_dr < b.floor"
NOT_OPEN = "(SELECT p.ends_on FROM ledger_ledgerperiod p WHERE p.status <> 'open'"
BUGS = [
    Bug("no balance condition", rules.nobody_spends_more_than_they_have, "ledger_post", CONDITION, "false"),
    Bug(
        "the payee is asked instead of the payer",
        rules.nobody_spends_more_than_they_have,
        "ledger_post",
        "(d.posted < d.held_dr",
        "(d.posted > d.held_dr",
    ),
    Bug(
        "the last cent may be overdrawn",
        rules.nobody_spends_more_than_they_have,
        "ledger_post",
        CONDITION,
        f"{CONDITION} - 1",
    ),
    Bug(
        "what is set aside may be spent",
        rules.what_is_set_aside_is_not_spent,
        "ledger_post",
        "- b.held_dr - d.held_dr",
        "- d.held_dr",
    ),
    Bug(
        "every account has a floor",
        rules.an_account_without_a_floor_takes_any_amount,
        "ledger_post",
        "d.held_dr < b.floor",
        "d.held_dr < COALESCE(b.floor, 0)",
    ),
    Bug(
        "a fresh key for each call",
        rules.a_repeated_posting_happens_once,
        "ledger_post",
        "u.id, u.k, u.f,",
        "u.id, u.k || u.id, u.f,",
    ),
    Bug(
        "a key that exists is written over",
        rules.a_repeated_posting_happens_once,
        "ledger_post",
        "IF written < cardinality(array_positions(existing, NULL)) THEN",
        "IF false THEN",
    ),
    Bug(
        "balances move before repetitions are known",
        rules.a_repeated_posting_beside_a_new_one_happens_once,
        "ledger_post",
        "WHERE existing[u.x] IS NULL\n          UNION ALL",
        "UNION ALL",
    ),
    Bug(
        "the content of a key is not compared",
        rules.a_key_stands_for_one_content,
        "ledger_post",
        "WHERE t.fingerprint <> u.f",
        "WHERE false",
    ),
    Bug(
        "the last leg is a cent off",
        rules.a_split_is_exact,
        "ledger_post",
        "p_id[e.x], e.c, e.m,",
        "p_id[e.x], e.c, e.m + (e.m = 3)::int,",
    ),
    Bug(
        "legs are rounded to ten",
        rules.a_split_is_exact,
        "ledger_post",
        "p_id[e.x], e.c, e.m,",
        "p_id[e.x], e.c, round(e.m, -1)::bigint,",
    ),
    Bug(
        "the balance is rounded to ten",
        rules.a_split_is_exact,
        "ledger_post",
        "SET posted = b.posted + d.posted,",
        "SET posted = b.posted + round(d.posted, -1)::bigint,",
    ),
    Bug(
        "entries need not balance",
        rules.what_does_not_balance_is_refused,
        "",
        "guard_balanced",
        "DROP TRIGGER guard_balanced ON ledger_ledgerentry",
    ),
    Bug(
        "no balance is unbalanced enough",
        rules.what_does_not_balance_is_refused,
        "ledger_require_balance",
        "HAVING sum(e.amount) <> 0",
        "HAVING false",
    ),
    Bug(
        "entries may be changed",
        rules.entries_are_never_changed,
        "",
        "guard_append_only",
        "DROP TRIGGER guard_append_only ON ledger_ledgerentry",
    ),
    Bug(
        "reversals without a limit",
        rules.no_more_is_taken_back_than_was_posted,
        "ledger_refuse_linked",
        "WHERE abs(m.amount) > abs(l.amount)",
        "WHERE false",
    ),
    Bug(
        "earlier reversals are forgotten",
        rules.no_more_is_taken_back_than_was_posted,
        "ledger_refuse_linked",
        "COALESCE(o.amount, 0) + COALESCE(r.amount, 0)",
        "COALESCE(o.amount, 0)",
    ),
    Bug(
        "settling without a limit",
        rules.no_more_is_settled_than_was_set_aside,
        "ledger_refuse_linked",
        "WHERE abs(m.amount) > abs(COALESCE(h.amount, 0))",
        "WHERE false",
    ),
    Bug(
        "settling gives nothing back",
        rules.no_more_is_settled_than_was_set_aside,
        "ledger_post",
        "-greatest(-h.amount, 0), -greatest(h.amount, 0), 0",
        "0, 0, 0",
    ),
    Bug(
        "resolved twice",
        rules.what_was_set_aside_is_resolved_once,
        "ledger_refuse_linked",
        "WHERE u.e IS NULL LIMIT 1",
        "WHERE false LIMIT 1",
    ),
    Bug(
        "closed months take postings",
        rules.a_closed_month_takes_nothing,
        "ledger_post",
        NOT_OPEN,
        f"{NOT_OPEN} AND false",
    ),
    Bug(
        "closed months take transfers",
        rules.a_transfer_into_a_closed_month_goes_to_the_next,
        "ledger_move",
        NOT_OPEN,
        f"{NOT_OPEN} AND false",
    ),
    Bug(
        "an instant excludes itself",
        rules.an_instant_includes_what_is_effective_at_it,
        "ledger_balance",
        "p_effective + interval '1 microsecond'",
        "p_effective",
    ),
    Bug(
        "later knowledge counts",
        rules.what_was_known_is_what_had_been_recorded,
        "ledger_balance",
        " FILTER (WHERE e.recorded_at < known_until)",
        "",
    ),
    Bug(
        "a day forgets its debits",
        rules.days_are_the_sums_of_their_entries,
        "ledger_keep",
        "sum(greatest(-e.amount, 0))",
        "0",
    ),
    Bug(
        "sealed without a margin",
        rules.nothing_is_sealed_within_the_margin,
        "ledger_keep",
        "clock_timestamp() - p_margin",
        "clock_timestamp()",
    ),
    Bug(
        "a clock that was set back is believed",
        rules.nothing_is_recorded_behind_a_seal,
        "ledger_post",
        "recorded, sealed + interval '1 microsecond')",
        "recorded)",
    ),
    Bug(
        "two legs do not ask for the latest seal",
        rules.nothing_is_recorded_behind_a_seal,
        "ledger_move",
        "AND recorded > COALESCE(",
        "OR recorded > COALESCE(",
    ),
    Bug(
        "two legs do not ask what the payer has",
        rules.nobody_spends_more_than_they_have,
        "ledger_move",
        "(d.amount < 0 AND b.posted + d.amount - b.held_dr < b.floor) IS NOT TRUE",
        "true",
    ),
    Bug(
        "what was refused of a batch is half undone",
        rules.a_refused_batch_moves_nothing,
        "ledger_post",
        "SET posted = b.posted - d.posted, held_dr",
        "SET held_dr",
    ),
    Bug(
        "what was refused is half undone",
        rules.a_refused_transfer_moves_nothing,
        "ledger_move",
        "SET posted = b.posted - d.amount, version = b.version - 1",
        "SET version = b.version - 1",
    ),
    Bug(
        "seals do not cover who did it",
        rules.sealed_rows_cannot_be_changed_unnoticed,
        "ledger_digests",
        "t.description, t.actor,",
        "t.description, t.source,",
    ),
    Bug(
        "seals do not cover whose an account is",
        rules.accounts_cannot_be_given_away_unnoticed,
        "ledger_openings",
        "a.id, a.owner_id, a.kind,",
        "a.id, a.kind,",
    ),
]
BUGS_BETWEEN_CONNECTIONS = [
    Bug(
        "no lock on what is taken back",
        rules.two_parts_at_once_share_what_was_posted,
        "ledger_refuse_linked",
        "ORDER BY t.id FOR NO KEY UPDATE",
        "ORDER BY t.id",
    ),
    Bug(
        "a repetition stands in its own way",
        rules.a_reversal_repeated_at_the_same_time_is_the_first_one,
        "ledger_post",
        "IF refused IS NOT NULL AND (looked OR NOT linked) THEN",
        "IF refused IS NOT NULL THEN",
    ),
    Bug(
        "locks in the order of arrival",
        rules.locks_are_taken_in_one_order,
        "ledger_move",
        "(VALUES (p_one, p_amount), (p_other, -p_amount))",
        "(VALUES (p_other, -p_amount), (p_one, p_amount))",
    ),
    Bug(
        "locks of a batch in the order of arrival",
        rules.locks_of_a_batch_are_taken_in_one_order,
        "ledger_post",
        ORDER,
        "GROUP BY m.account, m.stripe ORDER BY m.account DESC",
    ),
    Bug(
        "one stripe is read",
        rules.every_stripe_counts,
        "ledger_balance",
        "(SELECT sum(b.posted) FROM ledger_ledgerbalance b WHERE b.account_id = p_account)",
        "(SELECT sum(b.posted) FROM ledger_ledgerbalance b WHERE b.account_id = p_account AND b.stripe = 0)",
    ),
    Bug(
        "the keeper waits for nobody",
        rules.a_posting_that_has_not_ended_is_never_left_out_of_the_seals,
        "ledger_keep",
        "IF NOT ledger_await_writers(p_patience) THEN",
        "IF false THEN",
    ),
]


def plant(bug):
    """Put the bug in; the statement that takes it out again."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        if not bug.function:
            cursor.execute(bug.new)
            return ""
        cursor.execute("SELECT pg_get_functiondef(%s::regproc)", [bug.function])
        (text,) = cursor.fetchone()
        assert text.count(bug.old) == 1, f"{bug.function} does not say {bug.old!r} once:\n{text}"
        cursor.execute(text.replace(bug.old, bug.new))
        return text


@contextmanager
def planted(bug):
    """In the database for everybody, and out again."""
    original = plant(bug)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(original)


class Undo(Exception):
    """The rule held; what it wrote goes."""


def holds(rule):
    """Whether a rule passes, leaving nothing behind. An error that no rule expects is not a verdict."""
    try:
        with transaction.atomic():
            rule()
            raise Undo
    except Undo:
        return True
    except (AssertionError, pytest.fail.Exception, DatabaseError, CommerceError):
        return False


@pytest.mark.django_db
@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_planted_bug_breaks_its_rule(bug):
    assert holds(bug.rule)
    plant(bug)
    assert not holds(bug.rule)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("bug", BUGS_BETWEEN_CONNECTIONS, ids=str)
def test_a_bug_between_connections_breaks_its_rule(bug):
    bug.rule()
    with planted(bug), pytest.raises((AssertionError, CommerceError, DatabaseError)):
        bug.rule()


def test_the_documents_count_the_planted_bugs():
    total = len(BUGS) + len(BUGS_BETWEEN_CONNECTIONS)
    assert f"{total} of {total} planted bugs" in (REPOSITORY / "docs/testing.md").read_text()

"""I4: nothing is approved that somebody else has not agreed to, and what was approved is what was asked.

The hashes of the newest 5,000 requests are compared; what SQL can say is asked of every row.
"""

from collections.abc import Iterator
from datetime import timedelta

from django.db import connection

from commerce import clock
from commerce.console.approvals import is_bound
from commerce.console.models import Approval, ApprovalStatus
from commerce.invariants import Finding, invariant

NEWEST = 5000
OVERDUE = timedelta(days=1)


@invariant("I4", "What was approved was approved in time by somebody else, and the log says so")
def approvals_have_a_checker() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT a.id, a.title, a.maker, a.checker FROM console_approval a
               WHERE a.status = 'approved'
                 AND (a.checker IN ('', a.maker) OR a.checker LIKE 'system:%' OR a.decided_at >= a.expires_at
                      OR NOT EXISTS (
                        SELECT 1 FROM commerce_transitionlog t
                        WHERE t.model = 'console.approval' AND t.object_id = a.id::text
                          AND t.name = 'approve' AND t.actor = a.checker))
               LIMIT 100"""
        )
        for id_, title, maker, checker in cursor.fetchall():
            yield Finding(
                f"approval:{id_}",
                f"{title}: requested by {maker}, approved by {checker or 'nobody'}, not as the rules ask.",
            )


@invariant("I4", "What was requested is what its hash says")
def requests_are_untouched() -> Iterator[Finding]:
    for approval in Approval.objects.order_by("-id")[:NEWEST].iterator():
        if not is_bound(approval):
            yield Finding(f"approval:{approval.pk}", f"{approval.title}: changed after it was requested.")


@invariant("I5", "A request that nobody decided has expired")
def overdue_requests() -> Iterator[Finding]:
    overdue = Approval.objects.filter(
        status=ApprovalStatus.PENDING, expires_at__lt=clock.now() - OVERDUE
    ).order_by("expires_at")
    for approval in overdue[:100]:
        yield Finding(f"approval:{approval.pk}", f"{approval.title} should have expired and has not.")

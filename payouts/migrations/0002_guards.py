"""What the database itself refuses: state changes nobody declared, and rewriting who is paid what."""

from django.db import migrations

from commerce import guards


class Migration(migrations.Migration):
    dependencies = [("payouts", "0001_initial"), ("commerce", "0002_guards")]
    operations = [
        guards.append_only("payouts_payoutitem"),
        guards.updatable_only("payouts_settlement", ["status"]),
        guards.updatable_only(
            "payouts_settlementleg", ["status", "release_id", "releasable_at", "released_at"]
        ),
        guards.updatable_only(
            "payouts_payout",
            [
                "status",
                "provider_id",
                "provider_status",
                "approval_reason",
                "approved_by",
                "approved_at",
                "submitted_at",
                "paid_at",
                "failed_at",
                "returned_at",
                "failure_code",
                "failure_reason",
                "return_id",
                "last_error",
                "polls",
                "watched_since",
                "next_poll_at",
            ],
        ),
        guards.state_guard(
            "payouts_settlement",
            "status",
            initial=["planned"],
            pairs=[
                ("planned", "disbursing"),
                ("disbursing", "seasoning"),
                ("disbursing", "completed"),
                ("seasoning", "released"),
                ("seasoning", "completed"),
                ("seasoning", "held"),
                ("seasoning", "reversed"),
                ("released", "completed"),
                ("released", "held"),
                ("released", "reversed"),
                ("completed", "released"),
                ("held", "seasoning"),
                ("held", "released"),
                ("held", "completed"),
                ("held", "reversed"),
            ],
        ),
        guards.state_guard(
            "payouts_settlementleg",
            "status",
            initial=["pending"],
            pairs=[
                ("pending", "funded"),
                ("pending", "reversed"),
                ("funded", "seasoning"),
                ("funded", "released"),
                ("funded", "reversed"),
                ("seasoning", "releasable"),
                ("seasoning", "held"),
                ("seasoning", "reversed"),
                ("held", "seasoning"),
                ("held", "reversed"),
                ("releasable", "released"),
                ("released", "paid_out"),
                ("released", "clawed_back"),
                ("paid_out", "released"),
                ("paid_out", "clawed_back"),
            ],
        ),
        guards.state_guard(
            "payouts_payout",
            "status",
            initial=["requested"],
            pairs=[
                ("requested", "needs_approval"),
                ("requested", "approved"),
                ("requested", "cancelled"),
                ("needs_approval", "approved"),
                ("needs_approval", "cancelled"),
                ("approved", "submitted"),
                ("approved", "cancelled"),
                ("submitted", "unknown"),
                ("submitted", "in_transit"),
                ("submitted", "failed"),
                ("unknown", "in_transit"),
                ("unknown", "failed"),
                ("in_transit", "paid"),
                ("in_transit", "failed"),
                ("paid", "returned"),
            ],
        ),
    ]

"""I5 for parties: what is requested of a provider is still on its way, or a person knows."""

from collections.abc import Iterator

from django.db import connection

from commerce.invariants import Finding, invariant


@invariant("I5", "Every requested reference has an event under way or a parked stream")
def forgotten_references() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT r.id, r.kind, o.name FROM parties_providerreference r
               JOIN parties_organization o ON o.id = r.organization_id
               WHERE r.status = 'requested' AND r.provider = 'modern_treasury'
                 AND o.onboarding_status <> 'rejected'
                 AND NOT EXISTS (
                   SELECT 1 FROM outbox_outboxstream s
                   WHERE s.aggregate_type = 'organization' AND s.aggregate_id = o.id::text
                     AND s."group" = 'parties.modern_treasury'
                     AND (s.due_at IS NOT NULL OR s.parked_at IS NOT NULL))
               LIMIT 100"""
        )
        for id_, kind, name in cursor.fetchall():
            yield Finding(f"provider_reference:{id_}", f"The {kind} of {name} was requested and forgotten.")


@invariant("I5", "Sealed bank details belong to a requested reference")
def stray_bank_details() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT v.id, r.status FROM parties_bankdetailsvault v
               JOIN parties_providerreference r ON r.id = v.reference_id
               WHERE r.status <> 'requested' LIMIT 100"""
        )
        for id_, status in cursor.fetchall():
            yield Finding(f"bank_details_vault:{id_}", f"Its reference is {status}; it should be gone.")

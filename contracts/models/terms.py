"""The versions of the platform's terms."""

from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q

from commerce.console.models import Approval
from commerce.ids import uuid7
from contracts.rules.schema import instant


class PlatformTerms(models.Model):
    """One version: what contracts created from `effective_at` on get where they say nothing.

    Versions have no gaps, each begins after the one before, and all but the first were agreed by two
    people. `hash` covers the row and the hash before it.
    """

    append_only = True
    own_guards = ("guard_follows",)
    aggregate_type: ClassVar[str] = "platform_terms"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    version = models.PositiveIntegerField(unique=True)
    effective_at = models.DateTimeField(
        unique=True, help_text="Contracts created from this instant on get these values."
    )
    sections = models.JSONField(help_text="Section → field → value.")
    reason = models.CharField(max_length=500)
    made_by = models.CharField(max_length=120, help_text="Who asked for it.")
    approved_by = models.CharField(max_length=120, blank=True, default="", help_text="Who agreed.")
    approval = models.OneToOneField(Approval, models.PROTECT, null=True, related_name="+")
    recorded_at = models.DateTimeField(auto_now_add=True)
    prev_hash = models.CharField(max_length=64, blank=True, default="")
    hash = models.CharField(max_length=64)

    class Meta:
        ordering = ("-id",)
        verbose_name = verbose_name_plural = "platform terms"
        constraints = (
            models.CheckConstraint(
                condition=Q(version=1, approval__isnull=True, approved_by="")
                | Q(version__gt=1, approval__isnull=False)
                & ~Q(approved_by="")
                & ~Q(approved_by=F("made_by")),
                name="platform_terms_by_two",
            ),
        )
        permissions = (
            ("request_platformterms", "Can ask for other platform terms"),
            ("approve_platformterms", "Can agree to other platform terms"),
        )

    def __str__(self) -> str:
        return f"version {self.version}"

    def fingerprint(self) -> dict[str, Any]:
        """What `hash` covers."""
        return {
            "version": self.version,
            "effective_at": instant(self.effective_at),
            "sections": self.sections,
            "reason": self.reason,
            "made_by": self.made_by,
            "approved_by": self.approved_by,
            "prev_hash": self.prev_hash,
        }

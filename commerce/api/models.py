"""API keys, of which only a hash is kept, and the answers given under idempotency keys."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from commerce.actor import Actor
from commerce.api.scopes import permissions_of
from commerce.ids import uuid7


class ApiKey(models.Model):
    """A credential of one organization: `ck_live_<prefix>_<secret>`, shown once, stored as SHA-256.

    A fast hash is enough because the secret is 256 random bits. Expiry is system time, so that a
    test clock locks nobody out.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    prefix = models.CharField(max_length=16, unique=True)
    secret_sha256 = models.CharField(max_length=64)
    label = models.CharField(max_length=80)
    organization = models.ForeignKey(
        "parties.Organization", on_delete=models.PROTECT, related_name="api_keys"
    )
    scopes = models.JSONField(default=list)
    live = models.BooleanField(default=False, help_text="Accepted in production, and only there.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.CharField(max_length=120)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API key"
        permissions = (("issue_apikey", "Can issue API keys"), ("revoke_apikey", "Can revoke API keys"))

    def __str__(self) -> str:
        return f"{self.label} ({self.shown})"

    @property
    def shown(self) -> str:
        """The part that may be seen: what logs, lists and the console show."""
        return f"ck_{'live' if self.live else 'test'}_{self.prefix}_…"

    @property
    def status(self) -> str:
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at <= timezone.now() else "active"

    @property
    def is_usable(self) -> bool:
        return self.status == "active" and self.live == settings.PRODUCTION

    def actor(self, request_id: str = "") -> Actor:
        return Actor(
            type="api_key",
            id=str(self.pk),
            label=self.label,
            organization_id=self.organization_id,
            scopes=frozenset(self.scopes),
            permissions=permissions_of(self.scopes, platform="platform" in self.organization.roles),
            request_id=request_id,
        )


class IdempotencyKey(models.Model):
    """One answered request. The row commits with the effects it answers for, or not at all."""

    id = models.BigAutoField(primary_key=True)
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+")
    key = models.CharField(max_length=255)
    method = models.CharField(max_length=8)
    path = models.CharField(max_length=2048)
    request_sha256 = models.CharField(max_length=64, help_text="Of method, path, If-Match and body.")
    status = models.PositiveSmallIntegerField(default=0)
    headers = models.JSONField(default=dict)
    response = models.JSONField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["api_key", "key"], name="idempotency_key_once"),)
        indexes = (models.Index(fields=["created_at"], name="idempotency_key_age"),)

    def __str__(self) -> str:
        return f"{self.method} {self.path} ({self.key})"

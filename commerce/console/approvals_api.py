"""Approvals over HTTP, for keys of the platform, read-only: people decide in the console."""

from django.db.models import QuerySet
from rest_framework import mixins, serializers
from rest_framework.routers import SimpleRouter

from commerce.api.serializers import LedgerMoneyField, PageQuery, StrictModelSerializer
from commerce.api.views import CommerceViewSet
from commerce.console.models import Approval, ApprovalStatus


class ApprovalOutput(StrictModelSerializer):
    arguments = serializers.DictField()
    value = LedgerMoneyField(minor="value_minor", allow_null=True, help_text="What is at stake.")

    class Meta:
        model = Approval
        fields = (
            "id", "operation", "title", "subject_type", "subject_id", "arguments", "sha256", "key", "reason",
            "value", "status", "maker", "maker_name", "requested_at", "expires_at", "checker", "checker_name",
            "decided_at", "decision", "result_type", "result_id",
        )  # fmt: skip
        read_only_fields = fields


class ApprovalQuery(PageQuery):
    status = serializers.ChoiceField(choices=ApprovalStatus.choices, required=False)
    subject = serializers.CharField(
        required=False, max_length=150, help_text="Model and id, as billing.invoice:0192…"
    )


class ApprovalViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, CommerceViewSet):
    """What one person has requested and another must agree to before it happens."""

    scope = "approvals"
    queryset = Approval.objects.all()
    serializer_class = ApprovalOutput
    query_serializer = ApprovalQuery

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        if self.action == "list":
            if status := self.query.get("status"):
                queryset = queryset.filter(status=status)
            if subject := self.query.get("subject"):
                label, _, key = subject.partition(":")
                queryset = queryset.filter(subject_type=label.lower(), subject_id=key)
        return super().filter_queryset(queryset)


router = SimpleRouter()
router.register("approvals", ApprovalViewSet, basename="approval")
urlpatterns = router.urls

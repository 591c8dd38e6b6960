"""How a contract, its edits and previews of them look over HTTP."""

from typing import Any

from rest_framework import serializers

from commerce.api.serializers import InstantField, MoneyField, StrictModelSerializer
from commerce.errors import NotFound
from commerce.money import Money
from contracts.models import Contract, ContractEdit
from contracts.rules.lines import DesiredLine, Difference
from contracts.rules.state import ContractState, digest
from contracts.rules.visibility import Json, Viewer, shown


class ContractSerializer(serializers.Serializer):
    """A contract at an instant: lines, terms and holds as they stood then, those that the key may see."""

    id = serializers.UUIDField()
    number = serializers.CharField()
    status = serializers.ChoiceField(choices=[*Contract.Status.values])
    version = serializers.IntegerField(help_text="Number of edits; the ETag.")
    buyer_id = serializers.UUIDField(allow_null=True, help_text="Null for a partner.")
    currency = serializers.CharField()
    start_at = InstantField()
    end_at = InstantField(allow_null=True)
    billing = serializers.DictField()
    terms = serializers.DictField()
    lines = serializers.ListField(child=serializers.DictField())
    discounts = serializers.DictField(
        required=False,
        help_text="Id to discount; a seller's are those that it bears a part of, for its own lines.",
    )
    holds = serializers.ListField(child=serializers.DictField())
    signatures = serializers.ListField(child=serializers.DictField())
    needs_resign = serializers.BooleanField()
    state_hash = serializers.CharField(help_text="Digest of what is shown: equal when nothing differs.")


class EditSerializer(StrictModelSerializer):
    actor = serializers.SerializerMethodField()
    contract_id = serializers.UUIDField()

    class Meta:
        model = ContractEdit
        fields = (
            "id", "contract_id", "seq", "operation", "op_version", "payload", "effective_at", "recorded_at",
            "actor", "reason", "supersedes", "hash",
        )  # fmt: skip
        read_only_fields = fields
        extra_kwargs = {"hash": {"help_text": "Of the whole row, for the platform; else empty."}}

    def get_actor(self, row: ContractEdit) -> str:
        return row.actor_label or f"{row.actor_type}:{row.actor_id}"


class OperationResultSerializer(serializers.Serializer):
    edit = EditSerializer()
    contract = ContractSerializer()


class BatchResultSerializer(serializers.Serializer):
    edits = EditSerializer(many=True)
    contract = ContractSerializer()


class DesiredLineSerializer(serializers.Serializer):
    """What should be billed: minor units in `net` and `tax`, a discount below zero."""

    kind = serializers.CharField()
    line_id = serializers.UUIDField(allow_null=True)
    source_id = serializers.CharField(help_text="The line, discount, commitment, loan or charge it is for.")
    product = serializers.CharField()
    seller_id = serializers.UUIDField(allow_null=True)
    buyer_id = serializers.UUIDField()
    owner_epoch = serializers.IntegerField()
    quantity = serializers.CharField()
    rate = serializers.CharField()
    start = InstantField()
    end = InstantField()
    net = MoneyField()
    tax = MoneyField(allow_null=True, help_text="Null for others than the buyer.")
    funded_by = serializers.ChoiceField(
        ["seller", "platform"],
        allow_blank=True,
        help_text="Of a discount: who bears it; empty for the buyer.",
    )


class DesiredLinesSerializer(serializers.Serializer):
    items = DesiredLineSerializer(many=True)
    net = MoneyField()
    tax = MoneyField(allow_null=True, help_text="Null for others than the buyer.")


class BilledOtherwiseSerializer(serializers.Serializer):
    """One line in one billing period, before and after, without tax, and what the difference is."""

    kind = serializers.CharField()
    line_id = serializers.UUIDField(allow_null=True)
    product = serializers.CharField()
    period_start = InstantField()
    before = MoneyField()
    after = MoneyField()
    tax = MoneyField(help_text="The difference of the tax.")


class PreviewSerializer(serializers.Serializer):
    effective_at = InstantField()
    before = serializers.DictField(help_text="JSON pointer to value, of what would change.")
    after = serializers.DictField()
    contract = ContractSerializer(help_text="The state that would hold at effective_at.")
    bills = BilledOtherwiseSerializer(many=True)
    approval = serializers.ListField(
        child=serializers.CharField(), help_text="Why two people must agree; empty when nobody else must."
    )
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="What else to know before recording it, in words."
    )


class DifferenceSerializer(serializers.Serializer):
    """[start, end) of valid time, in which the two instants of knowledge say different things."""

    start = InstantField()
    end = InstantField(allow_null=True)
    before = serializers.DictField(help_text="JSON pointer to value, as known at `from`.")
    after = serializers.DictField(help_text="The same as known at `to`.")


class DiffSerializer(serializers.Serializer):
    items = DifferenceSerializer(many=True)


def represent(contract: Contract, state: ContractState, viewer: Viewer) -> Json:
    """The contract with the state of one instant, as the viewer sees it."""
    body = shown(state, viewer) if state.exists else None
    if body is None:
        raise NotFound("The contract did not exist at that instant, or was not known.")
    return document(contract, body)


def document(contract: Contract, body: Json) -> Json:
    return {
        "id": str(contract.pk),
        "number": contract.number,
        **body,
        "end_at": body.get("end_at"),
        "lines": list(body["lines"].values()),
        "state_hash": digest({**body, "version": 0}),
    }


def desired_lines(lines: list[DesiredLine], currency: str, viewer: Viewer) -> dict[str, Any]:
    """What `DesiredLinesSerializer` reads; a tax is between the buyer and the platform."""
    items = [_desired_line(line, currency, viewer in ("platform", line.buyer_id)) for line in lines]
    taxes = [item["tax"] for item in items]
    return {
        "items": items,
        "net": sum((item["net"] for item in items), Money(0, currency)),
        "tax": None if None in taxes else sum(taxes, Money(0, currency)),
    }


def _desired_line(line: DesiredLine, currency: str, is_taxed: bool) -> dict[str, Any]:
    return {
        **{
            name: getattr(line, name)
            for name in (
                "kind", "line_id", "product", "seller_id", "buyer_id", "owner_epoch", "start", "end",
                "funded_by",
            )
        },
        "source_id": str(line.source_id),
        "quantity": format(line.quantity.normalize(), "f"),
        "rate": format(line.rate.normalize(), "f"),
        "net": Money(line.net_minor, currency),
        "tax": Money(line.tax_minor, currency) if is_taxed else None,
    }  # fmt: skip


def billed_otherwise(difference: Difference, currency: str) -> dict[str, Any]:
    """What `BilledOtherwiseSerializer` reads."""
    return {
        "kind": difference.owed.kind,
        "line_id": difference.owed.line_id,
        "product": difference.product,
        "period_start": difference.owed.period_start,
        "before": Money(difference.net_before, currency),
        "after": Money(difference.net_after, currency),
        "tax": Money(difference.tax_minor, currency),
    }

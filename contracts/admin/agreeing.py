"""What a request to edit a contract is about, on the request's own page: in words, and what it would do."""

from collections.abc import Sequence
from dataclasses import replace

from django.db import OperationalError
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce import clock
from commerce.actor import Actor
from commerce.api.problems import translate
from commerce.console.charts import table
from commerce.console.format import instant
from commerce.console.models import Approval, ApprovalStatus
from commerce.console.registry import register_panel
from commerce.errors import CommerceError
from contracts.admin.outlook import outlook
from contracts.admin.titles import title_of
from contracts.admin.words import named_in, names_of, payload_in_words
from contracts.models import Contract
from contracts.rules import schema
from contracts.rules.operations import named
from contracts.services import OperationRequest
from contracts.services.edit_approvals import OPERATION


def what_is_asked(approval: Approval, request: HttpRequest) -> SafeString:
    """Each operation by name with what was entered; nothing for requests of another kind."""
    if approval.operation != OPERATION:
        return SafeString()
    contract, operations = _about(approval)
    names = names_of(contract.current)
    rows = [
        (
            _title(asked),
            payload_in_words(dict(asked.payload), names, contract.currency),
            instant(asked.effective_at) if asked.effective_at else "at the instant of what it corrects",
            asked.reason,
        )
        for asked in operations
    ]
    return table(["Operation", "What", "Takes effect", "Reason"], rows)


def what_it_would_do(approval: Approval, request: HttpRequest) -> SafeString:
    """While it waits: states and bills before and after, by the code that would record it."""
    if approval.operation != OPERATION or approval.status != ApprovalStatus.PENDING:
        return SafeString()
    contract, operations = _about(approval)
    try:
        seen = outlook(
            contract=contract,
            operations=operations,
            actor=Actor.system("approvals"),
            at=clock.now(),
            expected_version=approval.arguments["expected_version"],
            agreed=True,
        )
    except (CommerceError, OperationalError) as caught:
        said = named_in(str(translate(caught)), names_of(contract.current))
        return format_html('<p class="c-notice c-warn">It cannot be recorded so: {}</p>', said)
    return render_to_string("contracts/outlook.html", {"outlook": replace(seen, approval=())})


def _about(approval: Approval) -> tuple[Contract, Sequence[OperationRequest]]:
    arguments = approval.arguments
    operations = [OperationRequest.from_json(item) for item in arguments["operations"]]
    return Contract.objects.get(pk=arguments["contract_id"]), operations


def _title(asked: OperationRequest) -> str:
    rule = named(asked.operation)
    try:
        return title_of(asked.operation, schema.parse(rule.payload, asked.payload))
    except CommerceError:  # the page tells what was asked for, whether it is still understood or not
        return rule.label


register_panel(
    "console.approval", title="What is asked for", render=what_is_asked, order=11,
    permission="contracts.view_contract",
)  # fmt: skip
register_panel(
    "console.approval", title="What it would change", render=what_it_would_do, order=12,
    permission="contracts.view_contract",
)  # fmt: skip

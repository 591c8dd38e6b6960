"""Tables of the contracts app."""

from contracts.models.bulk import BulkPlan, BulkPlanRow
from contracts.models.catalog import Offer, Product, Reservation, ReservedUnit, Stock
from contracts.models.drafts import EditDraft
from contracts.models.log import Contract, ContractEdit, ContractQuerySet
from contracts.models.schedule import ScheduledCommand, ScheduledCommandQuerySet
from contracts.models.segments import LineSegment
from contracts.models.service import ServiceEvent, UnitStatus
from contracts.models.terms import PlatformTerms

__all__ = [
    "BulkPlan",
    "BulkPlanRow",
    "Contract",
    "ContractEdit",
    "ContractQuerySet",
    "EditDraft",
    "LineSegment",
    "Offer",
    "PlatformTerms",
    "Product",
    "Reservation",
    "ReservedUnit",
    "ScheduledCommand",
    "ScheduledCommandQuerySet",
    "ServiceEvent",
    "Stock",
    "UnitStatus",
]

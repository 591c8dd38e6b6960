"""Tables of the contracts app."""

from contracts.models.catalog import Offer, Product, Reservation, ReservedUnit, Stock
from contracts.models.log import Contract, ContractEdit, ContractQuerySet
from contracts.models.schedule import ScheduledCommand, ScheduledCommandQuerySet
from contracts.models.service import ServiceEvent, UnitStatus
from contracts.models.terms import PlatformTerms

__all__ = [
    "Contract",
    "ContractEdit",
    "ContractQuerySet",
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

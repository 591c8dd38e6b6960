"""Tables of the contracts app."""

from contracts.models.catalog import Product
from contracts.models.log import Contract, ContractEdit, ContractQuerySet
from contracts.models.terms import PlatformTerms

__all__ = ["Contract", "ContractEdit", "ContractQuerySet", "PlatformTerms", "Product"]

"""Tables of the contracts app."""

from contracts.models.catalog import Product
from contracts.models.log import Contract, ContractEdit, ContractQuerySet

__all__ = ["Contract", "ContractEdit", "ContractQuerySet", "Product"]

"""Contracts and the catalogue over HTTP."""

"""Measured beside its peers, on one PostgreSQL server and in one run: `python -m tests.benchmarks <name>`."""

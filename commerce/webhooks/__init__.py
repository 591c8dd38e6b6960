"""Outgoing webhooks: organizations are told of events that they may read, by the Standard Webhooks 1.0.0."""

"""The review queue's events are for the outside; nothing here listens to them."""

from commerce.outbox import external

external("review_item.opened", "review_item.resolved")

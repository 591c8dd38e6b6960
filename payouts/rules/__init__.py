"""Pure decisions about settlements and payouts: no Django, no clock, no I/O."""

"""Pure contract rules: payloads, the fold, segments, prices and splits. No Django, no clock, no I/O."""

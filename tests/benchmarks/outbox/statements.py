"""The SQL of the outbox's benchmark: streams and events written at once, as appends would leave them."""

EMPTY = "TRUNCATE outbox_outboxevent, outbox_outboxstream RESTART IDENTITY CASCADE"
SETTLED = "VACUUM ANALYZE outbox_outboxevent, outbox_outboxstream"
UNPUBLISHED = "SELECT count(*) FROM outbox_outboxevent WHERE published_at IS NULL"
DUE = "SELECT count(*) FROM outbox_outboxstream WHERE due_at IS NOT NULL"

# Appended in turn, so that the events of one stream lie far from each other; a millisecond apart.
_STREAMS = """
CREATE TEMP TABLE stream AS
SELECT i, gen_random_uuid()::text AS id, now() - interval '1 hour' + i * interval '1 ms' AS at
  FROM generate_series(1, %(streams)s) i
"""
_HEADS = """
INSERT INTO outbox_outboxstream (aggregate_type, aggregate_id, "group", lane, cursor, attempts, last_error,
                                 parked_reason)
SELECT 'bench', id, '', '', %(events)s, 0, '', '' FROM stream ORDER BY i
"""
_GROUPS = """
INSERT INTO outbox_outboxstream (aggregate_type, aggregate_id, "group", lane, cursor, attempts, last_error,
                                 parked_reason, pending_since, due_at, parked_at)
SELECT 'bench', id, listening, %(lane)s, 0, 0, '', '', at,
       CASE %(state)s WHEN 'due' THEN at WHEN 'waiting' THEN at + interval '1 day' END,
       CASE %(state)s WHEN 'parked' THEN at END
  FROM stream, unnest(%(groups)s::text[]) listening ORDER BY i, listening
"""
_EVENTS = """
INSERT INTO outbox_outboxevent (event_id, aggregate_type, aggregate_id, sequence, type, version, payload,
                                headers, occurred_at, recorded_at)
SELECT gen_random_uuid(), 'bench', id, sequence, %(type)s, 1,
       jsonb_build_object('amount', i, 'currency', 'USD', 'reason', 'a benchmark'),
       jsonb_build_object('request_id', '', 'actor', 'system:benchmark', 'for', %(groups)s::text[]), at, at
  FROM stream, generate_series(1, %(events)s) sequence ORDER BY sequence, i
"""
LOAD = (_STREAMS, _HEADS, _GROUPS, _EVENTS, "DROP TABLE stream")

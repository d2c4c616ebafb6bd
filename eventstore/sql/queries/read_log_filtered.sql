-- A batch of the log, filtered. $1 after (exclusive), $2 up to (inclusive: a settled position, since a filtered read
-- cannot see holes), $3 limit, $4 types or null, $5 categories or null.
-- Index: events_position_key; rows that do not match are read and dropped.
select position, tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id,
       coalesce(occurred_at, recorded_at), recorded_at, data::text, metadata::text
from "eventstore".events
where position > $1 and position <= $2
  and ($4::text[] is null or type = any($4))
  and ($5::text[] is null or split_part(stream_id, '-', 1) = any($5))
order by position
limit $3

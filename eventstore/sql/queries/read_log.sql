-- A batch of the log. $1 after (exclusive), $2 up to (inclusive: a settled position), $3 limit.
-- Index: events_position_key.
select position, tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id,
       coalesce(occurred_at, recorded_at), recorded_at, data::text, metadata::text
from "eventstore".events
where position > $1 and position <= $2
order by position
limit $3

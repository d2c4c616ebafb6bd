-- A batch of the log. $1 after (exclusive), $2 up to (inclusive: a settled position), $3 limit.
-- Index: events_position_key.
-- Usual values come as null, ids and times in their binary form: most readers look at few of them.
select position, stream_id, version, type, uuid_send(event_id), timestamptz_send(recorded_at), data::text,
       nullif(tenant_id, ''), nullif(schema_version, 1::smallint), correlation_id, causation_id, timestamptz_send(occurred_at),
       nullif(metadata, '{}')::text
from "eventstore".events
where position > $1 and position <= $2
order by position
limit $3

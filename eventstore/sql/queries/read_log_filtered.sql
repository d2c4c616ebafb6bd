-- A batch of the log, filtered. $1 after (exclusive), $2 up to (inclusive: a settled position, since a filtered read
-- cannot see holes), $3 limit, $4 types or null, $5 categories or null.
-- Index: events_position_key; rows that do not match are read and dropped.
-- Usual values come as null, ids and times in their binary form: most readers look at few of them.
select position, stream_id, version, type, uuid_send(event_id), timestamptz_send(recorded_at), data::text,
       nullif(tenant_id, ''), nullif(schema_version, 1::smallint), correlation_id, causation_id, timestamptz_send(occurred_at),
       nullif(metadata, '{}')::text
from "eventstore".events
where position > $1 and position <= $2
  and ($4::text[] is null or type = any($4))
  and ($5::text[] is null or split_part(stream_id, '-', 1) = any($5))
order by position
limit $3

-- A batch of one stream, oldest first. $1 tenant, $2 stream, $3 after, $4 before (both exclusive), $5 limit.
-- Index: events_pkey.
-- Usual values come as null, ids and times in their binary form: most readers look at few of them.
select position, stream_id, version, type, uuid_send(event_id), timestamptz_send(recorded_at), data::text,
       nullif(tenant_id, ''), nullif(schema_version, 1::smallint), correlation_id, causation_id, timestamptz_send(occurred_at),
       nullif(metadata, '{}')::text
from "eventstore".events
where tenant_id = $1 and stream_id = $2 and version > $3 and version < $4
order by version
limit $5

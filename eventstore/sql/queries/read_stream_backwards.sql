-- A batch of one stream, newest first. $1 tenant, $2 stream, $3 after, $4 before (both exclusive), $5 limit.
-- Index: events_pkey, backwards.
select position, tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id,
       coalesce(occurred_at, recorded_at), recorded_at, data::text, metadata::text
from "eventstore".events
where tenant_id = $1 and stream_id = $2 and version > $3 and version < $4
order by version desc
limit $5

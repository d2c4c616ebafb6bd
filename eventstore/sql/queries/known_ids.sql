-- The ids that some streams hold; their number is the stream's version. $1 tenant, $2 streams. Index: events_pkey.
select stream_id, array_agg(event_id::text)
from "eventstore".events
where tenant_id = $1 and stream_id = any($2::text[])
group by stream_id

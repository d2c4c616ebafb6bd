-- The version of a stream; 0 where it has no events. $1 tenant, $2 stream, both varchar for the sake of foreign codecs.
-- Index: events_pkey, backwards.
select coalesce((
    select version from "eventstore".events
    where tenant_id = $1::varchar and stream_id = $2::varchar
    order by version desc limit 1), 0)

-- A batch of one stream, newest first. $1 tenant, $2 stream, $3 after, $4 before (both exclusive), $5 limit.
-- Index: events_pkey, backwards.
-- Most readers look at few columns: the others come packed (eventstore/_details.py), the usual schema version as null.
-- Text travels as varchar: the connection may be the user's, with a codec of his for text.
select position, stream_id::varchar, version, type::varchar, nullif(schema_version, 1::smallint), data::text::varchar,
       case when occurred_at is null and correlation_id is null and causation_id is null and metadata = '{}' and tenant_id = ''
                 and tags is null
            then uuid_send(event_id) || timestamptz_send(recorded_at)
            else uuid_send(event_id) || timestamptz_send(recorded_at)
                 || record_send(row(
                     occurred_at, convert_to(metadata::text, 'UTF8'), convert_to(correlation_id, 'UTF8'), causation_id,
                     convert_to(tenant_id, 'UTF8'), convert_to(array_to_string(tags, e'\x01'), 'UTF8'))) end
from "eventstore".events
where tenant_id = $1::varchar and stream_id = $2::varchar and version > $3 and version < $4
order by version desc
limit $5

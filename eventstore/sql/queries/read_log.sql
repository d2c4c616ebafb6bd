-- A batch of the log. $1 after (exclusive), $2 up to (inclusive: a settled position), $3 limit.
-- Index: events_position_key.
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
where position > $1 and position <= $2
order by position
limit $3

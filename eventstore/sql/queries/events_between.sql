-- Some events of a stream, to recognise them. $1 tenant, $2 stream, $3 and $4: versions, the first exclusive.
-- Text travels as varchar: the connection may be the user's, with a codec of his for text.
-- Index: events_pkey.
select version, position, uuid_send(event_id), type::varchar, data::text::varchar
from "eventstore".events
where tenant_id = $1::varchar and stream_id = $2::varchar and version > $3 and version <= $4
order by version

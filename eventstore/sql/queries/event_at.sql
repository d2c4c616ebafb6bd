-- Where an event stands, to name it. $1: its position.
-- Text travels as varchar: the connection may be the user's, with a codec of his for text.
-- Index: events_position_key.
select position, stream_id::varchar, version, type::varchar from "eventstore".events where position = $1

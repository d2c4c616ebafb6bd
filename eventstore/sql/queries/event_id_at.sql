-- The id of the event at a position; no row where there is none. $1 position. Index: events_position_key.
select event_id from "eventstore".events where position = $1

-- The newest event at or below a position. $1 position. Index: events_position_key, backwards.
select position, event_id from "eventstore".events where position <= $1 order by position desc limit 1

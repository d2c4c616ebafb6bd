-- The highest position that is committed; 0 where there is none. Index: events_position_key, backwards.
select coalesce((select position from "eventstore".events order by position desc limit 1), 0)

-- The last position given out, and the highest in the log. One statement: its snapshot is older than its look at the
-- sequence, so that an append in between makes the sequence run ahead, never the log. Index: events_position_key.
select e.position, (select case when is_called then last_value else 0 end from "eventstore".events_position_seq)
from (select coalesce((select position from "eventstore".events order by position desc limit 1), 0) as position) e

-- The last position that was given out (committed, under way or dead), and the time at which this statement began: what
-- has a higher position was recorded later. Step 1 of the settled mark.
-- Cold: a sequence is one row.
select case when is_called then last_value else 0 end, statement_timestamp() from "eventstore".events_position_seq

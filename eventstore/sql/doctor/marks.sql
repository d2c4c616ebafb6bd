-- How old is what was published? The safe mark, the last time mark, the last position given out, and for how long the
-- first event beyond the time mark has been there. Cold. Indexes: time_marks_pkey, events_position_key.
select m.position, t.position, t.at, extract(epoch from t.at - clock_timestamp())::float8,
       (select case when is_called then last_value else 0 end from "eventstore".events_position_seq),
       (select extract(epoch from clock_timestamp() - e.recorded_at)::float8 from "eventstore".events e
        where e.position > least(m.position, coalesce(t.position, 0)) order by e.position limit 1)
from "eventstore".safe_mark m
left join (select at, position from "eventstore".time_marks order by at desc limit 1) t on true

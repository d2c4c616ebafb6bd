-- Which log this is (cluster, timeline, epoch), the safe mark, and the last position given out.
-- Cold: single rows, once a connection.
select (select system_identifier from pg_catalog.pg_control_system()),
       (select timeline_id from pg_catalog.pg_control_checkpoint()),
       m.log_epoch, m.position, (select case when is_called then last_value else 0 end from "eventstore".events_position_seq)
from "eventstore".safe_mark m

-- Write the rows of tags of the events that this transaction has inserted, $1 the last position that was
-- given out before; so seq grows with the position. By the transaction's id, not by a list of events: positions behind $1 are
-- everybody's, and what others have inserted has their own. The transaction holds the locks of the tags (lock_tags.sql), and
-- has inserted in no savepoint, whose rows would carry another id.
-- Index: events_position_key.
insert into "eventstore".event_tags (tenant_id, tag, position, type)
select e.tenant_id, t.tag, e.position, e.type
from "eventstore".events e, lateral unnest(e.tags) with ordinality as t (tag, n)
where e.position > $1 and e.xmin = pg_current_xact_id()::xid
order by e.position, t.n

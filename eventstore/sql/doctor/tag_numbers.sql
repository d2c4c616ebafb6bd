-- The highest number among the tags of the newest 1,000 events, and the last number given out: the first is no index's highest, and
-- what a restore brought back without its sequence shows in the newest. One statement, as positions.sql.
-- Index: events_position_key, backwards; event_tags_position_key.
select (
           select coalesce(max(t.seq), 0)
           from (select e.tenant_id, e.position, e.tags from "eventstore".events e order by e.position desc limit 1000) n,
                unnest(n.tags) as g (tag),
                lateral (
                    select x.seq from "eventstore".event_tags x
                    where x.tenant_id = n.tenant_id and x.tag = g.tag and x.position = n.position offset 0) t),
       (select case when is_called then last_value else 0 end from "eventstore".event_tags_seq_seq)

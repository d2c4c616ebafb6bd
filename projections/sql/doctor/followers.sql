-- Followers that are not as they should be: beyond the log's end, or behind it and not moved for $1 seconds, with who runs
-- them and whether that daemon lives. Cold: a row a follower.
select c.follower, c.shard, c.position, g.given,
       extract(epoch from clock_timestamp() - c.updated_at)::float8,
       l.owner is not null, d.name, coalesce(d.expires_at > clock_timestamp(), false),
       c.position < coalesce(h.position, 0)
from "eventstore".checkpoints c
cross join (select case when is_called then last_value else 0 end as given from "eventstore".events_position_seq) g
left join (select position from "eventstore".events order by position desc limit 1) h on true
left join "eventstore".leases l on l.follower = c.follower and l.shard = c.shard
left join "eventstore".daemons d on d.owner = l.owner
where c.position > g.given
   or (l.owner is not null and coalesce(d.expires_at, '-infinity') <= clock_timestamp())
   or (l.owner is not null and c.position < coalesce(h.position, 0) and c.updated_at < clock_timestamp() - make_interval(secs => $1))
order by 1, 2

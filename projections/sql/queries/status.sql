-- Every follower: where it stands, how far behind the log's head, who runs it and whether that daemon lives.
-- Cold: when somebody asks; a row a follower.
select c.follower, c.shard, c.position,
       greatest(coalesce((select e.position from "eventstore".events e order by e.position desc limit 1), 0) - c.position, 0),
       c.updated_at, l.owner, d.name, coalesce(d.expires_at > clock_timestamp(), false)
from "eventstore".checkpoints c
left join "eventstore".leases l on l.follower = c.follower and l.shard = c.shard
left join "eventstore".daemons d on d.owner = l.owner
order by c.follower, c.shard

-- Who runs a follower, and does that daemon live? $1 follower, $2 shard. Locks the lease, so that takers queue.
-- Cold: once a take-over.
select l.owner, exists (select from "eventstore".daemons d where d.owner = l.owner and d.expires_at > clock_timestamp())
from "eventstore".leases l where l.follower = $1 and l.shard = $2
for update

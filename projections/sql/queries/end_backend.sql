-- Terminate the connection of a daemon whose lease has expired: stopped, it would hold its checkpoint's row lock for
-- ever. $1 follower, $2 shard, $3 the taker. Pids are used again, hence the backend's start. Waits at most a second.
-- No row: it is gone already, is alive, or may not be seen.
-- Index: leases_pkey. Once a second while it waits.
select pg_terminate_backend(a.pid, 1000)
from "eventstore".leases l
join pg_catalog.pg_stat_activity a on a.pid = l.pid and a.backend_start = l.backend_start
where l.follower = $1 and l.shard = $2 and l.owner <> $3
  and not exists (select from "eventstore".daemons d where d.owner = l.owner and d.expires_at > clock_timestamp())

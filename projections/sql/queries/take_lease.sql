-- Take a lease over. $1 follower, $2 shard, $3 owner.
-- Cold: once a take-over.
update "eventstore".leases l
set owner = $3, pid = a.pid, backend_start = a.backend_start, taken_at = clock_timestamp()
from pg_catalog.pg_stat_activity a
where l.follower = $1 and l.shard = $2 and a.pid = pg_backend_pid()

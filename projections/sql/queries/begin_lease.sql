-- Make a lease where there is none yet, already this daemon's. $1 follower, $2 shard, $3 owner, $4 the process that
-- the connection was told; not the one that answers: a pooler's, which is not the owner's to name.
-- Cold: once a take-over.
insert into "eventstore".leases (follower, shard, owner, pid, backend_start)
select $1, $2, $3, coalesce(a.pid, 0), coalesce(a.backend_start, '-infinity')
from (select $4::int as pid) told
left join pg_catalog.pg_stat_activity a on a.pid = told.pid and a.pid = pg_backend_pid()
on conflict do nothing

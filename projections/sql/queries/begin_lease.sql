-- Make a lease where there is none yet, already this daemon's. $1 follower, $2 shard, $3 owner.
-- Cold: once a take-over.
insert into "eventstore".leases (follower, shard, owner, pid, backend_start)
select $1, $2, $3, a.pid, a.backend_start from pg_catalog.pg_stat_activity a where a.pid = pg_backend_pid()
on conflict do nothing

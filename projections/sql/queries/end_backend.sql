-- Terminate the connection of a daemon whose lease has expired: stopped, it would hold its checkpoint's row lock for
-- ever. $1 pid, $2 when that backend started (pids are used again). Waits at most a second. No row: it is gone already.
select pg_terminate_backend(a.pid, 1000) from pg_catalog.pg_stat_activity a where a.pid = $1 and a.backend_start = $2

-- Take a follower: lease and epoch together, if nobody alive has it; no row: somebody has. $1 follower, $2 shard, $3 owner,
-- $4 the process that the connection was told; not the one that answers: a pooler's, which is not the owner's to name.
-- One statement, on its own: a client that is stopped cannot leave it half done and hold its locks. Bumping the epoch makes
-- every batch of an earlier owner fail. Takers queue on the lease's row, and each looks again once it has it; one that does
-- not see a heartbeat that was just written takes the lease from a living daemon, which the epoch tells.
-- Cold: once a takeover.
with taken as (
    update "eventstore".leases l
    set owner = $3, pid = coalesce(a.pid, 0), backend_start = coalesce(a.backend_start, '-infinity'), taken_at = clock_timestamp()
    from (select $4::int as pid) told
    left join pg_catalog.pg_stat_activity a on a.pid = told.pid and a.pid = pg_backend_pid()
    where l.follower = $1 and l.shard = $2
      and (l.owner = $3 or not exists (
          select from "eventstore".daemons d where d.owner = l.owner and d.expires_at > clock_timestamp()))
    returning 1
)
update "eventstore".checkpoints c
set epoch = c.epoch + 1
where c.follower = $1 and c.shard = $2 and exists (select from taken)
returning c.position, c.epoch

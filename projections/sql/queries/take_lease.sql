-- Take a follower: lease and epoch together, if nobody alive has it; no row: somebody has. $1 follower, $2 shard, $3 owner.
-- One statement, on its own: a client that is stopped cannot leave it half done and hold its locks. Bumping the epoch makes
-- every batch of an earlier owner fail. Takers queue on the lease's row, and each looks again once it has it; one that does
-- not see a heartbeat that was just written takes the lease from a living daemon, which the epoch tells.
-- Cold: once a takeover.
with taken as (
    update "eventstore".leases l
    set owner = $3, pid = a.pid, backend_start = a.backend_start, taken_at = clock_timestamp()
    from pg_catalog.pg_stat_activity a
    where l.follower = $1 and l.shard = $2 and a.pid = pg_backend_pid()
      and (l.owner = $3 or not exists (
          select from "eventstore".daemons d where d.owner = l.owner and d.expires_at > clock_timestamp()))
    returning 1
)
update "eventstore".checkpoints c
set epoch = c.epoch + 1
where c.follower = $1 and c.shard = $2 and exists (select from taken)
returning c.position, c.epoch

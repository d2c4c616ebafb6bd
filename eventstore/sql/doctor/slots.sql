-- Replication slots that nobody uses: what they keep the server from removing. Cold; open to everybody.
select s.slot_name::text, s.wal_status,
       case when pg_catalog.pg_is_in_recovery() then null
            else pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint end,
       pg_catalog.age(coalesce(s.xmin, s.catalog_xmin))
from pg_catalog.pg_replication_slots s where not s.active and not s.temporary
order by 1

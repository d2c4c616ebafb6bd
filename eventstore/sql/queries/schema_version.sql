-- The schema's version, and the subscriptions of logical replication that write into events or a partition of it (none,
-- where all is well). pg_subscription_rel and the names are open to everybody.
-- Cold: runs once an opening.
select max(v.version_num), array(
    select distinct coalesce(s.subname::text, r.srsubid::text)
    from pg_catalog.pg_subscription_rel r left join pg_catalog.pg_subscription s on s.oid = r.srsubid
    where r.srrelid = to_regclass('"eventstore".events')
       or r.srrelid in (select relid from pg_catalog.pg_partition_tree(to_regclass('"eventstore".events'))))
from "eventstore".alembic_version v

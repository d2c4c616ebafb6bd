-- The subscriptions of logical replication that write into events or a partition of it: none, where all is well.
-- Cold: the catalog, as far as it is open to everybody.
select coalesce(s.subname::text, r.srsubid::text)
from pg_catalog.pg_subscription_rel r
left join pg_catalog.pg_subscription s on s.oid = r.srsubid
where r.srrelid in (
    select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = trim(both '"' from '"eventstore"') and c.relname = 'events'
    union all
    select p.relid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace,
         lateral pg_catalog.pg_partition_tree(c.oid) p
    where n.nspname = trim(both '"' from '"eventstore"') and c.relname = 'events')
group by 1 order by 1

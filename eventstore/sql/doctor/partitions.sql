-- Tables that hold a part of the log: is it partitioned or inherited from, and who may insert past the log itself?
-- Cold: the catalog.
with recursive parts as (
    select i.inhrelid as oid
    from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhparent
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = trim(both '"' from '"eventstore"') and c.relname = 'events' and c.relkind in ('r', 'p')
    union
    select i.inhrelid from pg_catalog.pg_inherits i join parts p on p.oid = i.inhparent
)
select format('%I.%I', n.nspname, c.relname), c.relispartition, c.relpersistence = 'u',
       array(select distinct case x.grantee when 0 then 'public' else format('%I', r.rolname) end
             from pg_catalog.aclexplode(c.relacl) x left join pg_catalog.pg_roles r on r.oid = x.grantee
             where x.grantee <> c.relowner and x.privilege_type = 'INSERT' order by 1)
from parts p join pg_catalog.pg_class c on c.oid = p.oid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
order by 1

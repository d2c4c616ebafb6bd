-- Who besides the owner was granted the right to rewrite the log. Cold: the catalog.
with granted as (
    select c.relname, c.relowner, c.relacl as acl
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = trim(both '"' from '"eventstore"') and c.relname in ('events', 'time_marks')
    union all
    select c.relname, c.relowner, a.attacl
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid
    where n.nspname = trim(both '"' from '"eventstore"') and c.relname in ('events', 'time_marks') and not a.attisdropped
)
select g.relname::text, coalesce(r.rolname::text, ''), array_agg(distinct x.privilege_type::text order by x.privilege_type::text)
from granted g cross join lateral pg_catalog.aclexplode(g.acl) x left join pg_catalog.pg_roles r on r.oid = x.grantee
where x.grantee <> g.relowner and x.privilege_type in ('UPDATE', 'DELETE', 'TRUNCATE')
group by 1, 2 order by 1, 2

-- Who may do what of what is needed. $1 roles, $2 objects ('' is the schema), $3 columns ('' is all), $4 privileges, all
-- of one length. Returns role, whether it exists, object, column, privilege, whether it is held. Cold: the catalog.
select n.role, r.oid is not null, n.object, n.field, n.privilege,
       case
           when r.oid is null then false
           when n.object = '' then pg_catalog.has_schema_privilege(r.oid, s.oid, n.privilege)
           when c.oid is null then null
           when n.field <> '' then pg_catalog.has_column_privilege(r.oid, c.oid, n.field, n.privilege)
           when c.relkind = 'S' then pg_catalog.has_sequence_privilege(r.oid, c.oid, n.privilege)
           else pg_catalog.has_table_privilege(r.oid, c.oid, n.privilege)
       end
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as n (role, object, field, privilege)
join pg_catalog.pg_namespace s on s.nspname = trim(both '"' from '"eventstore"')
left join pg_catalog.pg_roles r on r.rolname = n.role
left join pg_catalog.pg_class c on c.relnamespace = s.oid and c.relname = n.object

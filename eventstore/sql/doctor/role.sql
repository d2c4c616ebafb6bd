-- Is this role a superuser, or the owner of the log? Cold: the catalog.
select r.rolsuper, pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE')
from pg_catalog.pg_roles r, pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where r.rolname = current_user and n.nspname = trim(both '"' from '"eventstore"') and c.relname = 'events'

-- Is the schema there, are its tables, and may this role get in? Cold: reads the catalog, which is open to everybody.
select exists (select from pg_catalog.pg_class c where c.relnamespace = n.oid and c.relname = 'alembic_version'),
       pg_catalog.has_schema_privilege(n.oid, 'USAGE')
from pg_catalog.pg_namespace n where n.nspname = trim(both '"' from '"eventstore"')

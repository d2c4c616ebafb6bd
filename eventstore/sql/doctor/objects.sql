-- What lies in the schema: kind, name, table that it belongs to, state. Cold: reads the catalog, open to everybody.
with mine as (
    select c.oid, c.relname, c.relpersistence, c.reloptions
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = trim(both '"' from '"eventstore"') and c.relkind in ('r', 'p')
)
select 'table', relname::text, relname::text,
       case when relpersistence = 'u' then 'unlogged' else '' end
       || case when reloptions::text ~ 'autovacuum_enabled=(false|off|no|0)' then ' unvacuumed' else '' end, ''
from mine
union all
select 'column', a.attname::text, m.relname::text, '', ''
from pg_catalog.pg_attribute a join mine m on m.oid = a.attrelid where a.attnum > 0 and not a.attisdropped
union all
select 'constraint', k.conname::text, m.relname::text, case when k.convalidated then '' else 'not validated' end, ''
from pg_catalog.pg_constraint k join mine m on m.oid = k.conrelid
union all
select 'index', c.relname::text, m.relname::text,
       case when i.indisvalid and i.indisready then '' else 'invalid' end,
       case when i.indisunique then 'unique' else '' end
from pg_catalog.pg_index i join mine m on m.oid = i.indrelid join pg_catalog.pg_class c on c.oid = i.indexrelid
union all
select 'trigger', t.tgname::text, m.relname::text, case when t.tgenabled in ('O', 'A') then '' else 'disabled' end, ''
from pg_catalog.pg_trigger t join mine m on m.oid = t.tgrelid where not t.tgisinternal
union all
select 'function', p.proname::text, '', p.prosrc, coalesce(array_to_string(p.proconfig, E'\n'), '')
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname = trim(both '"' from '"eventstore"')

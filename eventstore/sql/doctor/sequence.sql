-- A sequence of ours: how it is set, and whether it belongs to its column. $1 table, $2 column. Cold: the catalog.
select s.seqcache, s.seqincrement, s.seqcycle, s.seqmax,
       coalesce((
           select a.attidentity::text
           from pg_catalog.pg_depend d
           join pg_catalog.pg_class t on t.oid = d.refobjid and t.relname = $1::text and t.relnamespace = c.relnamespace
           join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid and a.attname = $2::text
           where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype in ('i', 'a')
           limit 1), 'none')
from pg_catalog.pg_sequence s
join pg_catalog.pg_class c on c.oid = s.seqrelid and c.relname = $1::text || '_' || $2::text || '_seq'
join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = trim(both '"' from '"eventstore"')

-- Transactions of the whole cluster that are older than $1 seconds, and how many sessions this role cannot look into.
-- Cold. Without pg_read_all_stats the start of others' transactions is null.
select a.pid, a.datname::text, a.application_name, a.usename::text, a.state,
       extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds, null::text
from pg_catalog.pg_stat_activity a
where a.backend_type = 'client backend' and a.pid <> pg_catalog.pg_backend_pid()
  and extract(epoch from clock_timestamp() - a.xact_start) > $1::float8
union all
select null, p.database::text, null, p.owner::text, 'prepared',
       extract(epoch from clock_timestamp() - p.prepared)::float8, p.gid
from pg_catalog.pg_prepared_xacts p
where extract(epoch from clock_timestamp() - p.prepared) > $1::float8
order by seconds desc

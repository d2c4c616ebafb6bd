-- Who they are: transactions by virtual id, the one that began first on top. $1 virtual ids.
-- State, start and query are null for a session that the role may not look into (pg_read_all_stats may); a prepared
-- transaction has no session, but a name.
-- Cold: runs while a reader has been waiting for seconds.
select distinct on (l.virtualtransaction)
       l.virtualtransaction, l.pid, a.application_name, a.usename::text, a.state,
       coalesce(a.xact_start, p.prepared),
       extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8,
       nullif(a.query, '<insufficient privilege>'), p.gid
from pg_catalog.pg_locks l
left join pg_catalog.pg_stat_activity a on a.pid = l.pid
left join pg_catalog.pg_locks x on l.pid is null and x.virtualtransaction = l.virtualtransaction and x.locktype = 'transactionid'
left join pg_catalog.pg_prepared_xacts p on p.transaction = x.transactionid
where l.virtualtransaction = any($1::text[])
order by l.virtualtransaction, p.prepared nulls last

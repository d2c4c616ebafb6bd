-- Who may still commit a row: the transactions that hold ROW EXCLUSIVE on events or a partition of it. Step 2 of the
-- settled mark: a later statement than last_given. pg_locks is no snapshot: it shows this moment.
-- A prepared transaction keeps its virtual id and has no pid, hence IS DISTINCT FROM.
-- Cold: the locks are memory, the rest are a few rows of catalogs; its time is that of copying the lock table.
select l.virtualtransaction
from pg_catalog.pg_locks l
where l.locktype = 'relation' and l.granted and l.mode = 'RowExclusiveLock'
  and l.relation in (select relid from pg_catalog.pg_partition_tree('"eventstore".events'::regclass)
                     union all select '"eventstore".events'::regclass)
  and l.pid is distinct from pg_catalog.pg_backend_pid()
  and l.database = (select oid from pg_catalog.pg_database where datname = current_database())

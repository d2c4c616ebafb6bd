-- Who may still commit a row: the transactions that hold ROW EXCLUSIVE on events or a partition of it. Step 2 of the
-- settled mark: a later statement than last_given. pg_locks is no snapshot: it shows this moment.
-- A prepared transaction keeps its virtual id and has no pid, hence IS DISTINCT FROM.
-- One row: when the server was started (virtual ids mean nothing after a restart, which a pooler hides), and who.
-- Cold: reads the lock table, which is memory.
select pg_catalog.pg_postmaster_start_time(), array(
    select l.virtualtransaction
    from pg_catalog.pg_locks l
    where l.locktype = 'relation' and l.granted and l.mode = 'RowExclusiveLock'
      and l.relation in (select relid from pg_catalog.pg_partition_tree('"eventstore".events'::regclass)
                         union all select '"eventstore".events'::regclass)
      and l.pid is distinct from pg_catalog.pg_backend_pid()
      and l.database = (select oid from pg_catalog.pg_database where datname = current_database()))

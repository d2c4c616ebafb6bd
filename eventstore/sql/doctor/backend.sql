-- The process that serves this statement; behind a pooler not the one that the client was told. Cold.
select pg_catalog.pg_backend_pid()

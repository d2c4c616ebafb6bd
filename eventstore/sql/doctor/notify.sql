-- A notification to the doctor's own channel ($1): nobody else listens there. Cold.
select pg_catalog.pg_notify($1, '')

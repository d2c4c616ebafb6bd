-- The database's clock. Cold.
select clock_timestamp()

-- How many sessions of others this role cannot look into. Cold.
select count(*) from pg_catalog.pg_stat_activity
where backend_type is null or query = '<insufficient privilege>'

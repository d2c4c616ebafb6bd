-- How many sessions of other roles this one cannot look into. Cold.
select count(*) from pg_catalog.pg_stat_activity where datname is not null and query = '<insufficient privilege>'

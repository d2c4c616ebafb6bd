-- How many connections clients have, and may have. Cold; the count needs no privilege.
select (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int

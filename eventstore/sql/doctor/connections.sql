-- How many connections there are, and may be. Cold. The count is open to everybody, unlike what pg_stat_activity says of
-- other roles' sessions; it includes parallel and autovacuum workers.
select (select sum(numbackends) from pg_catalog.pg_stat_database)::int,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int

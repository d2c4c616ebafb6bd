-- What the other checks begin with: who, where, which server. Cold, reads no table.
select current_user::text, current_database()::text, current_setting('server_version_num')::int,
       current_setting('server_version'), pg_catalog.pg_is_in_recovery(),
       pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')

-- The schema's version, and the server's.
select (select max(version_num) from "eventstore".alembic_version), current_setting('server_version_num')::int

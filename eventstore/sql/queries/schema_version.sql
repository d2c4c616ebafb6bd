-- The schema's version.
-- Cold: one row, once a store.
select max(version_num) from "eventstore".alembic_version

-- The schema's version.
select max(version_num) from "eventstore".alembic_version

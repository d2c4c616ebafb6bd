-- The schema that holds everything. Nobody gets into it without a grant (10_grants.sql).
create schema if not exists "eventstore";

comment on schema "eventstore" is 'pg-eventstore: the log and what follows it';

-- What was appended under a request id, so that the same request appends once. One row an append that carries one, none
-- for others; written in the append's own transaction, kept until it is pruned by age.
-- digest: of what was asked for (stream, types, data); the same id with another digest is refused.
create table "eventstore".requests (
    tenant_id text collate "C" not null default '',
    request_id text collate "C" not null,
    stream_id text collate "C" not null,
    digest bytea not null,
    first_version bigint not null,
    last_version bigint not null,
    position bigint not null,
    at timestamptz not null default clock_timestamp(),
    constraint requests_pkey primary key (tenant_id, request_id)
);

create index requests_at_idx on "eventstore".requests (at);

comment on table "eventstore".requests is 'Appends that carried a request id, and their results; pruned by age';

-- One row: every position up to this one is committed or dead, for ever; and which log this is.
-- Written at most once a second, by whoever appends or follows (publish_mark_v1). A start begins reading here, so that
-- ancient holes cost nothing.
create table "eventstore".safe_mark (
    singleton boolean not null default true constraint safe_mark_one_row check (singleton),
    position bigint not null default 0,
    log_epoch uuid not null default gen_random_uuid(),
    constraint safe_mark_pkey primary key (singleton)
) with (fillfactor = 50);

insert into "eventstore".safe_mark default values;

comment on table "eventstore".safe_mark is 'One row: all positions up to it are settled; log_epoch names this log';

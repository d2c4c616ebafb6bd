-- Which daemon may run a follower. pid and backend_start name the connection that its batches run on: whoever takes over
-- terminates it, since a stopped process would hold the checkpoint's row lock for ever. That is for progress; that a
-- stale owner writes nothing is the epoch's doing (checkpoints).
create table "eventstore".leases (
    follower text collate "C" not null,
    shard int not null default 0,
    owner uuid not null,
    pid int not null,
    backend_start timestamptz not null,
    taken_at timestamptz not null default clock_timestamp(),
    constraint leases_pkey primary key (follower, shard)
) with (fillfactor = 50);

comment on table "eventstore".leases is 'Which daemon runs which follower';

-- How far each follower has come: written in the same transaction as what the follower writes, hence exactly once.
-- Every batch begins with SELECT ... FOR UPDATE of its row and refuses to go on if epoch is no longer its own: a
-- takeover bumps it. Updated in place once a batch: half of each page is kept free so that updates stay on it (HOT).
create table "eventstore".checkpoints (
    follower text collate "C" not null,
    shard int not null default 0,
    position bigint not null default 0,
    epoch bigint not null default 0,
    updated_at timestamptz not null default clock_timestamp(),
    constraint checkpoints_pkey primary key (follower, shard)
) with (fillfactor = 50);

comment on table "eventstore".checkpoints is 'Everything up to this position has taken effect in the follower, exactly once';

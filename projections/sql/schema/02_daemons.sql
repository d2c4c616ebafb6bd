-- One heartbeat row a daemon process, on the database's clock. A lease holds as long as its owner's row has not expired,
-- so that a daemon with a hundred followers renews one row.
create table "eventstore".daemons (
    owner uuid not null,
    name text not null,
    started_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    constraint daemons_pkey primary key (owner)
) with (fillfactor = 50);

comment on table "eventstore".daemons is 'Heartbeats: a daemon whose row has expired has lost its leases';

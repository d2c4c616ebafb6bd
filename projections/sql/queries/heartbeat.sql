-- Say that this daemon lives for another $3 seconds, on the database's clock. $1 owner, $2 name.
-- Index: daemons_pkey.
insert into "eventstore".daemons (owner, name, expires_at) values ($1, $2, clock_timestamp() + make_interval(secs => $3))
on conflict (owner) do update set expires_at = excluded.expires_at

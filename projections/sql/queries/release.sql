-- Give up every lease of a daemon, and its heartbeat. $1 owner.
-- Cold: once a daemon's life, over a row a follower.
with released as (delete from "eventstore".leases where owner = $1)
delete from "eventstore".daemons where owner = $1

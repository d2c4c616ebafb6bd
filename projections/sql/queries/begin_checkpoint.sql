-- Make a follower's checkpoint where it has none. $1 follower, $2 shard.
-- Cold: once a take-over.
insert into "eventstore".checkpoints (follower, shard) values ($1, $2) on conflict do nothing

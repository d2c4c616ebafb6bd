-- Where a follower stands, and whose it is; every batch begins with this row lock. $1 follower, $2 shard.
-- Index: checkpoints_pkey.
select position, epoch from "eventstore".checkpoints where follower = $1 and shard = $2 for update

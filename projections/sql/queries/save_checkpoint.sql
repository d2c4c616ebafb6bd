-- Move a checkpoint, in the batch's transaction. $1 follower, $2 shard, $3 position, $4 the owner's epoch.
-- Index: checkpoints_pkey.
update "eventstore".checkpoints set position = $3, updated_at = clock_timestamp()
where follower = $1 and shard = $2 and epoch = $4
returning position

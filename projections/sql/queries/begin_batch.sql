-- Begin a batch: lock the checkpoint and move it to where the batch will end, if it stands where its owner left it, in the
-- owner's epoch. $1 follower, $2 shard, $3 the batch's end, $4 the owner's epoch, $5 where it stands.
-- Index: checkpoints_pkey.
update "eventstore".checkpoints set position = $3, updated_at = clock_timestamp()
where follower = $1 and shard = $2 and epoch = $4 and position = $5
returning position

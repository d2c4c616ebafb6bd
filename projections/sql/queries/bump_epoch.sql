-- Make every batch of an earlier owner fail, and return where the follower stands. $1 follower, $2 shard.
-- Cold: once a take-over.
update "eventstore".checkpoints set epoch = epoch + 1 where follower = $1 and shard = $2 returning position, epoch

-- Where a follower stands, without locking. $1 follower, $2 shard. Index: checkpoints_pkey.
select position from "eventstore".checkpoints where follower = $1 and shard = $2

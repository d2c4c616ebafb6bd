-- Wait until nobody is at work on a request. $1 tenant, $2 request. Locks: the request's advisory lock, until the transaction
-- ends.
-- Cold: no table.
select pg_advisory_xact_lock(hashtextextended('"eventstore"' || chr(2) || $1::text || chr(2) || $2::text, 0))

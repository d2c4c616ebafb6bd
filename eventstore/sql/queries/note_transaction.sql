-- Note, in a transaction about to be committed, that it was: whoever loses sight of it at the commit asks by the id. Locks:
-- the request's advisory lock, which asking waits for. $1 tenant, $2 request, $3 stream, $4 first and $5 last version, $6 position.
-- Cold: inserts one row, looks nothing up.
with locked as materialized (
    select pg_advisory_xact_lock(hashtextextended('"eventstore"' || chr(2) || $1::text || chr(2) || $2::text, 0))
)
insert into "eventstore".requests (tenant_id, request_id, stream_id, digest, first_version, last_version, position)
select $1::text, $2::text, $3::text, '', $4::bigint, $5::bigint, $6::bigint
from locked

-- Append one event, on a connection of the library's own: append_group for a group of one event, at half its price. Gives no
-- row where it is refused or contended; append_group says which. $1 tenant, $2 stream, $3 expectation as there.
-- Leans on the settings that append_group leans on.
-- Index: events_pkey, backwards, one look-up.
with tried as materialized (
    select pg_try_advisory_xact_lock(hashtextextended('"eventstore"' || chr(1) || $1::text || chr(1) || $2::text, 0)) as free
)
insert into "eventstore".events (
    tenant_id, stream_id, version, type, event_id, data, metadata, schema_version, correlation_id, causation_id, occurred_at)
select $1::text, $2::text, h.version + 1, $4::text, $5::uuid, $6::text::jsonb, $7::text::jsonb, $8::smallint, $9::text,
       $10::uuid, $11::timestamptz
from tried t,
     lateral (
         select coalesce((
             select e.version from "eventstore".events e
             where e.tenant_id = $1::text and e.stream_id = $2::text
             order by e.version desc limit 1), 0) as version
     ) h
where t.free and ($3::bigint = h.version or $3::bigint = -1 or ($3::bigint = -2 and h.version > 0))
returning version, position

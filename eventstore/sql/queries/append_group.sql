-- Append a group, on a connection of the library's own: what append_v2 does, for appends without request ids, without plpgsql
-- (12 instead of 18 us an append in groups of 32). Result as there; see schema/11_append_v2.sql.
-- $1 streams, $2 tenants (null: all empty), $5 types, $7 correlation ids (null: none): text joined by U+0001, which no name
-- holds, since a driver's text[] costs it 1 us an element; $3 expects; $4 heads (null: each event is an append of its own,
-- ordinal 1), $11 ordinals; $6 event ids; $8, $9 data and metadata (null: all empty) as one JSON array each; $10
-- schema versions, $12 causation ids, $13 times (null: none has any).
-- Leans on the session's enable_seqscan = off, jit = off and plan_cache_mode = force_generic_plan, as append_v2 on its own.
-- The locks are tried in the statement that reads the heads, so its snapshot may be older than a lock that a neighbour gave
-- back in this very moment; that race ends in 23505, and the group is sent again apart.
-- Index: events_pkey, backwards, one look-up a stream.
with tried as materialized (
    select array_agg(
               case when not f.free then -4611686018427387904
                    when u.expect = h.version or u.expect = -1 or (u.expect = -2 and h.version > 0) then h.version
                    else -1 - h.version end
               order by u.n) as versions,
           array_agg(u.stream order by u.n) as streams,
           array_agg(coalesce(u.tenant, '') order by u.n) as tenants
    from unnest(string_to_array($1::text, e'\x01'), string_to_array($2::text, e'\x01'), $3::bigint[])
             with ordinality as u (stream, tenant, expect, n),
         lateral (
             select pg_try_advisory_xact_lock(hashtextextended(
                 '"eventstore"' || chr(1) || coalesce(u.tenant, '') || chr(1) || u.stream, 0)) as free
             offset 0) f,
         lateral (
             select coalesce((
                 select e.version from "eventstore".events e
                 where e.tenant_id = coalesce(u.tenant, '') and e.stream_id = u.stream
                 order by e.version desc limit 1), 0) as version
             offset 0) h
),
inserted as (
    insert into "eventstore".events (
        tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id, occurred_at, data,
        metadata)
    select t.tenants[coalesce(x.head, x.place)], t.streams[coalesce(x.head, x.place)],
           t.versions[coalesce(x.head, x.place)] + coalesce(x.ordinal, 1), x.type, coalesce(x.schema_version, 1::smallint),
           x.event_id, x.correlation_id, x.causation_id, x.occurred_at, x.data, coalesce(x.metadata, '{}')
    from tried t,
         rows from (
             unnest($4::int[], $11::int[], string_to_array($5::text, e'\x01'), $6::uuid[],
                    string_to_array($7::text, e'\x01', ''), $10::smallint[], $12::uuid[], $13::timestamptz[]),
             jsonb_array_elements($8::text::jsonb),
             jsonb_array_elements($9::text::jsonb)
         ) with ordinality as x (
             head, ordinal, type, event_id, correlation_id, schema_version, causation_id, occurred_at, data, metadata, place)
    where t.versions[coalesce(x.head, x.place)] >= 0
    order by x.place
    returning events.position as drawn
)
select t.versions, (select array_agg(i.drawn order by i.drawn) from inserted i) as positions
from tried t

-- Appends to several streams in one statement; each append succeeds or is refused by itself. The form for any connection:
-- joined, pooled, with request ids, or queueing. Connections of the library's own send queries/append_group.sql and
-- queries/append_one.sql, which do the same without plpgsql (12 instead of 18 us an append in groups of 32, measured), but
-- lean on settings of the session.
--
-- One element an append in tenants, streams, expects, request_ids, digests; one an event in the other arrays, where heads says
-- which append (1-based) and ordinals its place in it (1-based). Two appends of one call must be for different streams.
-- metadatas to occurred_ats, request_ids and digests may be null: none has any.
-- expects: the exact version, -1 any, -2 exists; all compared for equality with the version now.
-- waiting: queue for contended streams; false: leave them out and say so. patience: lock_timeout for the rest of the
-- transaction, like '20ms'; null: as it is.
--
-- Gives versions, one an append: n >= 0: done, on top of version n; -1 - n: refused, the stream is at version n;
-- -4611686018427387904: contended, not tried; -4611686018427387905: this request is known, see known_*;
-- -4611686018427387906: it is known with another content. positions: of the events inserted, in their order.
--
-- A refused append draws no position. Who appends to a stream holds an advisory lock on it until the transaction ends, so
-- that nobody waits for a version unasked; who does not take it (a plain INSERT) is met at the primary key: 23505, or a wait
-- that lock_timeout ends. Locks: the advisory ones, sorted by hash when waiting, only tried when not, so that groups cannot
-- wait for each other; ROW EXCLUSIVE on events, taken before the first nextval.
-- Each statement of this VOLATILE function has a snapshot of its own: heads are read after the locks are held.
-- Indexes: events_pkey, backwards, one look-up a stream; requests_pkey. No plan may depend on statistics: a plan made while
-- the table is empty stays a sequential scan as it grows (1,600 instead of 26,000 groups of 8 a second), hence the settings.
-- With enable_seqscan off, jit would strike on PostgreSQL 17 and older (25 ms a call).
create function "eventstore".append_v2(
    tenants text[], streams text[], expects bigint[],
    heads int[], ordinals int[], types text[], event_ids uuid[], datas text[],
    metadatas text[], schema_versions smallint[], correlation_ids text[], causation_ids uuid[], occurred_ats timestamptz[],
    request_ids text[], digests bytea[], waiting boolean, patience text,
    out versions bigint[], out positions bigint[],
    out known_streams text[], out known_firsts bigint[], out known_lasts bigint[], out known_positions bigint[]
)
language plpgsql
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $function$
declare
    is_contended constant bigint := -4611686018427387904;
    is_known constant bigint := -4611686018427387905;
    is_mismatched constant bigint := -4611686018427387906;
    obtained boolean[];
begin
    if patience is not null then
        perform set_config('lock_timeout', patience, true);
    end if;
    if waiting then
        perform pg_advisory_xact_lock(k.key)
        from (
            select hashtextextended('"eventstore"' || chr(1) || u.tenant || chr(1) || u.stream, 0) as key
            from unnest(tenants, streams) as u (tenant, stream)
            union
            select hashtextextended('"eventstore"' || chr(2) || u.tenant || chr(2) || u.request, 0)
            from unnest(tenants, request_ids) as u (tenant, request)
            where u.request is not null
            order by 1
        ) k;
    end if;
    select array_agg(
               pg_try_advisory_xact_lock(hashtextextended('"eventstore"' || chr(1) || u.tenant || chr(1) || u.stream, 0))
               and (u.request is null or pg_try_advisory_xact_lock(
                   hashtextextended('"eventstore"' || chr(2) || u.tenant || chr(2) || u.request, 0)))
               order by u.n)
    into obtained
    from unnest(tenants, streams, request_ids) with ordinality as u (tenant, stream, request, n);
    if request_ids is not null then
        select array_agg(r.stream_id order by u.n), array_agg(r.first_version order by u.n),
               array_agg(r.last_version order by u.n), array_agg(r.position order by u.n),
               array_agg(case when r.digest is null or not u.free then null
                              when r.digest = u.digest then is_known else is_mismatched end order by u.n)
        into known_streams, known_firsts, known_lasts, known_positions, versions
        from unnest(tenants, request_ids, digests, obtained) with ordinality as u (tenant, request, digest, free, n)
        left join lateral (
            select * from "eventstore".requests q where q.tenant_id = u.tenant and q.request_id = u.request offset 0
        ) r on true;
    end if;
    select array_agg(
               case when h.known is not null then h.known
                    when not h.free then is_contended
                    when h.expect = h.version or h.expect = -1 or (h.expect = -2 and h.version > 0) then h.version
                    else -1 - h.version end
               order by h.n)
    into versions
    from (
        select u.n, u.expect, u.free, u.known,
               coalesce((
                   select e.version from "eventstore".events e
                   where e.tenant_id = u.tenant and e.stream_id = u.stream
                   order by e.version desc limit 1), 0) as version
        from unnest(tenants, streams, expects, obtained, versions) with ordinality as u (tenant, stream, expect, free, known, n)
    ) h;
    with inserted as (
        insert into "eventstore".events (
            tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id, occurred_at,
            data, metadata)
        select tenants[x.head], streams[x.head], versions[x.head] + x.ordinal, x.type, coalesce(x.schema_version, 1::smallint),
               x.event_id, x.correlation_id, x.causation_id, x.occurred_at, x.data::jsonb,
               coalesce(x.metadata, '{}')::jsonb
        from unnest(heads, ordinals, types, schema_versions, event_ids, correlation_ids, causation_ids, occurred_ats,
                    datas, metadatas) with ordinality
             as x (head, ordinal, type, schema_version, event_id, correlation_id, causation_id, occurred_at, data,
                   metadata, place)
        where versions[x.head] >= 0
        order by x.place
        returning events.position as drawn
    )
    select array_agg(inserted.drawn order by inserted.drawn) into positions from inserted;
    if request_ids is not null then
        insert into "eventstore".requests (
            tenant_id, request_id, stream_id, digest, first_version, last_version, position)
        select u.tenant, u.request, u.stream, u.digest, u.version + 1, e.version, e.position
        from unnest(tenants, streams, request_ids, digests, versions) as u (tenant, stream, request, digest, version),
             lateral (
                 select e.version, e.position from "eventstore".events e
                 where e.tenant_id = u.tenant and e.stream_id = u.stream
                 order by e.version desc limit 1) e
        where u.request is not null and u.version >= 0;
    end if;
end
$function$;

comment on function "eventstore".append_v2 is 'Append to several streams at once; each append succeeds or is refused by itself';

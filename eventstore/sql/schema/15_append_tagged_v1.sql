-- append_v2 for events that carry tags, and for appends that hold only if a boundary has not moved. A statement of its own: others
-- pay nothing for tags.
--
-- One element an append in tenants, streams, expects, logs, request_ids, digests; one an event in heads to taggings, as in append_v2.
-- taggings: the tags of an event, joined by U+0001; null: none. lock_heads, lock_tags: append and tag, for each tag that an append writes or
-- asks about. logs: what boundary_v1 said of the log; null: the append rests on no boundary. ask_*: one element a tag of an item
-- of an append's boundary: the append, the tag, the seq that was seen and whose it is, the item's types and its other tags,
-- joined by U+0001 (null: any; none). No append may ask about a tag that an earlier one of the same call writes.
-- The rest of the parameters, and of the result, is as in append_v2, besides -4611686018427387907 among the versions: an event
-- that matches the boundary has appeared since; conflicts tells its position (0: the log is another one by now, or has lost what was seen).
-- written_*: where an append rests on a boundary, the rows of tags that were written.
--
-- The locks of the tags that an append writes, or that its boundary names, are taken first, before any nextval: sorted when
-- waiting, only tried when not (its streams' and requests' among them). Each statement of this VOLATILE function has a
-- snapshot of its own, so the boundary is looked at after whoever wrote a row of its tags has committed. That is READ
-- COMMITTED; under other levels an append with a boundary is refused (25001).
-- The rows of an event may come from different transactions (a back-fill): it is new to a boundary if any of its rows is.
-- Indexes: events_pkey, backwards, one look-up a stream; requests_pkey; event_tags_pkey, from the seq that was seen, one look-up a
-- tag of an item, however many events the tag has; event_tags_position_key; events_position_key.
create function "eventstore".append_tagged_v1(
    tenants text[], streams text[], expects bigint[],
    heads int[], ordinals int[], types text[], event_ids uuid[], datas text[],
    metadatas text[], schema_versions smallint[], correlation_ids text[], causation_ids uuid[], occurred_ats timestamptz[],
    taggings text[], lock_heads int[], lock_tags text[],
    logs text[], ask_heads int[], ask_tags text[], ask_seens bigint[], ask_events uuid[], ask_types text[], ask_others text[],
    request_ids text[], digests bytea[], waiting boolean, patience text,
    out versions bigint[], out positions bigint[],
    out known_streams text[], out known_firsts bigint[], out known_lasts bigint[], out known_positions bigint[],
    out conflicts bigint[], out written_tags text[], out written_seqs bigint[], out written_positions bigint[]
)
language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $function$
declare
    is_contended constant bigint := -4611686018427387904;
    is_known constant bigint := -4611686018427387905;
    is_mismatched constant bigint := -4611686018427387906;
    is_overtaken constant bigint := -4611686018427387907;
    obtained boolean[];
    hit record;
begin
    if patience is not null then
        perform set_config('lock_timeout', patience, true);
    end if;
    if logs is not null and current_setting('transaction_isolation') not like 'read %' then
        raise exception 'a decision needs READ COMMITTED, and this transaction is %', upper(current_setting('transaction_isolation'))
            using errcode = '25001';
    end if;
    if waiting then
        perform case when k.shared then pg_advisory_xact_lock_shared(k.key) else pg_advisory_xact_lock(k.key) end
        from (
            select hashtextextended('"eventstore"' || chr(1) || u.tenant || chr(1) || u.stream, 0) as key, false as shared
            from unnest(tenants, streams) as u (tenant, stream)
            union
            select hashtextextended('"eventstore"' || chr(2) || u.tenant || chr(2) || u.request, 0), false
            from unnest(tenants, request_ids) as u (tenant, request)
            where u.request is not null
            union
            select l.key, l.shared
            from "eventstore".tag_locks_v1(
                lock_heads, array(select tenants[h.head] from unnest(lock_heads) as h (head)), lock_tags) l
            order by 1, 2
        ) k;
        obtained := array_fill(true, array[cardinality(streams)]);
    else
        select array_agg(g.free order by g.n) into obtained
        from (
            select l.n, bool_and(
                       case when l.shared then pg_try_advisory_xact_lock_shared(l.key)
                            else pg_try_advisory_xact_lock(l.key) end) as free
            from (
                select u.n, hashtextextended('"eventstore"' || chr(1) || u.tenant || chr(1) || u.stream, 0) as key,
                       false as shared
                from unnest(tenants, streams) with ordinality as u (tenant, stream, n)
                union all
                select u.n, hashtextextended('"eventstore"' || chr(2) || u.tenant || chr(2) || u.request, 0), false
                from unnest(tenants, request_ids) with ordinality as u (tenant, request, n)
                where u.request is not null
                union all
                select t.head, t.key, t.shared
                from "eventstore".tag_locks_v1(
                    lock_heads, array(select tenants[h.head] from unnest(lock_heads) as h (head)), lock_tags) t
            ) l
            group by l.n
        ) g;
    end if;
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
    if logs is not null then
        conflicts := array_fill(null::bigint, array[cardinality(streams)]);
        for hit in
            select a.head, t.position
            from unnest(ask_heads, ask_tags, ask_seens, ask_types, ask_others) as a (head, tag, seen, kinds, others),
                 lateral (
                     select x.position
                     from "eventstore".event_tags x
                     where x.tenant_id = tenants[a.head] and x.tag = a.tag and x.seq > coalesce(a.seen, 0)
                       and (a.kinds is null or x.type = any(string_to_array(a.kinds, e'\x01')))
                       and (a.others is null or not exists (
                           select from unnest(string_to_array(a.others, e'\x01')) as o (tag)
                           where not exists (
                               select from "eventstore".event_tags w
                               where w.tenant_id = tenants[a.head] and w.tag = o.tag and w.position = x.position offset 0)))
                     order by x.seq limit 1) t
            where versions[a.head] >= 0
            union all
            select a.head, 0
            from unnest(ask_heads, ask_tags, ask_seens, ask_events) as a (head, tag, seen, event)
            where versions[a.head] >= 0 and a.seen > 0
              and (
                  select (select e.event_id from "eventstore".events e where e.position = x.position) from "eventstore".event_tags x
                  where x.tenant_id = tenants[a.head] and x.tag = a.tag and x.seq = a.seen) is distinct from a.event
            union all
            select l.n, 0
            from unnest(logs) with ordinality as l (log, n)
            where versions[l.n] >= 0
              and l.log <> left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '/' || '"eventstore".event_tags'::regclass::oid
        loop
            versions[hit.head] := is_overtaken;
            conflicts[hit.head] := hit.position;
        end loop;
    end if;
    with inserted as (
        insert into "eventstore".events (
            tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id, occurred_at, tags,
            data, metadata)
        select tenants[x.head], streams[x.head], versions[x.head] + x.ordinal, x.type, coalesce(x.schema_version, 1::smallint),
               x.event_id, x.correlation_id, x.causation_id, x.occurred_at, string_to_array(x.tags, e'\x01'), x.data::jsonb,
               coalesce(x.metadata, '{}')::jsonb
        from unnest(heads, ordinals, types, schema_versions, event_ids, correlation_ids, causation_ids, occurred_ats, taggings,
                    datas, metadatas) with ordinality
             as x (head, ordinal, type, schema_version, event_id, correlation_id, causation_id, occurred_at, tags, data,
                   metadata, place)
        where versions[x.head] >= 0
        order by x.place
        returning events.tenant_id as tenant, events.position as drawn, events.type as type, events.tags as tags
    ),
    written as (
        insert into "eventstore".event_tags (tenant_id, tag, position, type)
        select i.tenant, t.tag, i.drawn, i.type
        from inserted i, unnest(i.tags) as t (tag)
        order by i.drawn
        returning event_tags.tag as tag, event_tags.seq as seq, event_tags.position as drawn
    )
    select (select array_agg(i.drawn order by i.drawn) from inserted i),
           w.tags, w.seqs, w.positions
    into positions, written_tags, written_seqs, written_positions
    from (select array_agg(w.tag) as tags, array_agg(w.seq) as seqs, array_agg(w.drawn) as positions
          from written w where logs is not null) w;
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

comment on function "eventstore".append_tagged_v1 is 'append_v2 for events with tags, and for decisions over a boundary';

-- append_tagged_v1, all or none: where one append is not done, none is, and versions tell why. Same parameters, same result.
create function "eventstore".append_together_v1(
    tenants text[], streams text[], expects bigint[],
    heads int[], ordinals int[], types text[], event_ids uuid[], datas text[],
    metadatas text[], schema_versions smallint[], correlation_ids text[], causation_ids uuid[], occurred_ats timestamptz[],
    taggings text[], lock_heads int[], lock_tags text[],
    logs text[], ask_heads int[], ask_tags text[], ask_seens bigint[], ask_events uuid[], ask_types text[], ask_others text[],
    request_ids text[], digests bytea[], waiting boolean, patience text,
    out versions bigint[], out positions bigint[],
    out known_streams text[], out known_firsts bigint[], out known_lasts bigint[], out known_positions bigint[],
    out conflicts bigint[], out written_tags text[], out written_seqs bigint[], out written_positions bigint[]
)
language plpgsql
as $function$
begin
    select a.versions, a.positions, a.known_streams, a.known_firsts, a.known_lasts, a.known_positions, a.conflicts
    into versions, positions, known_streams, known_firsts, known_lasts, known_positions, conflicts
    from "eventstore".append_tagged_v1(
        tenants, streams, expects, heads, ordinals, types, event_ids, datas, metadatas, schema_versions, correlation_ids,
        causation_ids, occurred_ats, taggings, lock_heads, lock_tags, logs, ask_heads, ask_tags, ask_seens, ask_events, ask_types,
        ask_others, request_ids, digests, waiting, patience) a;
    if exists (select from unnest(versions) as v (version) where v.version < 0) then
        raise exception 'undone' using errcode = 'ES001';
    end if;
exception when sqlstate 'ES001' then
    null; -- the rows are undone; the variables keep what they say
end
$function$;

comment on function "eventstore".append_together_v1 is 'append_tagged_v1, all or none';

-- Revision 0003: tags, and decisions over a boundary. Frozen: never edited once released.

create table "eventstore".event_tags (
    tenant_id text collate "C" not null default '',
    tag text collate "C" not null,
    seq bigint generated always as identity (cache 1),
    position bigint not null,
    type text collate "C" not null,
    constraint event_tags_pkey primary key (tenant_id, tag, seq)
) with (
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.02
);

create unique index event_tags_position_key on "eventstore".event_tags (tenant_id, tag, position);

create trigger event_tags_append_only
    before update or delete or truncate on "eventstore".event_tags
    for each statement execute function "eventstore".refuse_rewrite();

comment on table "eventstore".event_tags is 'One row a tag of an event; seq orders the rows of a tag as they became visible';

create function "eventstore".tag_locks_v1(heads int[], tenants text[], tags text[])
returns table (head int, key bigint, shared boolean)
language sql
immutable
as $function$
    with t as materialized (
        select u.head, hashtextextended('"eventstore"' || chr(3) || u.tenant || chr(3) || u.tag, 0) as hash
        from unnest(heads, tenants, tags) as u (head, tenant, tag)
    ),
    f as materialized (select count(distinct t.hash) <= 256 as few from t)
    select t.head, t.hash, false from t, f where f.few
    union all
    select t.head, hashtextextended('"eventstore"' || chr(4) || (t.hash & 1023)::text, 0), f.few from t, f
$function$;

comment on function "eventstore".tag_locks_v1 is 'The advisory locks to take before rows of these tags are written';

create function "eventstore".lock_tags_v1(tenants text[], tags text[]) returns void
language plpgsql
as $function$
begin
    perform case when k.shared then pg_advisory_xact_lock_shared(k.key) else pg_advisory_xact_lock(k.key) end
    from (select distinct l.key, l.shared from "eventstore".tag_locks_v1(null, tenants, tags) l order by 1) k;
end
$function$;

comment on function "eventstore".lock_tags_v1 is 'Take the locks that writing rows of these tags needs';

create function "eventstore".boundary_v1(of_tenant text, asked_tags text[], item_tags text[], item_types text[])
returns table (
    "position" bigint, stream_id varchar, version bigint, type varchar, schema_version smallint, data varchar, packed bytea)
language plpgsql
stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set max_parallel_workers_per_gather = 0
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query
    select coalesce(l.seq, 0), t.tag::varchar, null::bigint,
           case s.state when 2 then current_setting('transaction_isolation')
                        when 0 then left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '/'
                                    || '"eventstore".event_tags'::regclass::oid end::varchar,
           case when l.seq > coalesce(pg_sequence_last_value('"eventstore".event_tags_seq_seq'::regclass), 0) then 3 else s.state end::smallint,
           l.event_id::text::varchar, null::bytea
    from (
             select case when pg_is_in_recovery() then 1
                         when current_setting('transaction_isolation') not like 'read %' then 2
                         else 0 end as state
             offset 0) s,
         unnest(asked_tags) as t (tag)
         left join lateral (
             select x.seq, (select e.event_id from "eventstore".events e where e.position = x.position) as event_id
             from "eventstore".event_tags x
             where x.tenant_id = of_tenant and x.tag = t.tag
             order by x.seq desc limit 1) l on true
    union all
    select e.position, e.stream_id::varchar, e.version, e.type::varchar, nullif(e.schema_version, 1::smallint), e.data::text::varchar,
           case when e.occurred_at is null and e.correlation_id is null and e.causation_id is null and e.metadata = '{}'
                     and e.tenant_id = '' and e.tags is null
                then uuid_send(e.event_id) || timestamptz_send(e.recorded_at)
                else uuid_send(e.event_id) || timestamptz_send(e.recorded_at)
                     || record_send(row(
                         e.occurred_at, convert_to(e.metadata::text, 'UTF8'), convert_to(e.correlation_id, 'UTF8'), e.causation_id,
                         convert_to(e.tenant_id, 'UTF8'), convert_to(array_to_string(e.tags, e'\x01'), 'UTF8'))) end
    from (
             select distinct m.position
             from unnest(item_tags, item_types) as i (tags, kinds),
                  lateral (
                      select string_to_array(i.tags, e'\x01') as tags, string_to_array(i.kinds, e'\x01') as kinds offset 0) a,
                  lateral (
                      select substr(min(lpad(coalesce(c.events, 0)::text, 4, '0') || o.tag collate "C"), 5) as tag
                      from unnest(a.tags) as o (tag),
                           lateral (
                               select case when cardinality(a.tags) > 1 then (
                                   select count(*)
                                   from (
                                       select from "eventstore".event_tags x
                                       where x.tenant_id = of_tenant and x.tag = o.tag limit 1000) y) end as events) c
                      offset 0) rarest,
                  lateral (
                      select x.position
                      from "eventstore".event_tags x
                      where x.tenant_id = of_tenant and x.tag = rarest.tag and (a.kinds is null or x.type = any(a.kinds))
                        and (cardinality(a.tags) = 1 or not exists (
                            select from unnest(a.tags) as o (tag)
                            where not exists (
                                select from "eventstore".event_tags w
                                where w.tenant_id = of_tenant and w.tag = o.tag and w.position = x.position offset 0)))
                      offset 0) m) p,
         lateral (select * from "eventstore".events x where x.position = p.position offset 0) e;
end
$function$;

comment on function "eventstore".boundary_v1 is 'How far each tag of a boundary has come, and the events that match it';

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

create function "eventstore".append_tagged_one_v1(
    of_tenant text, of_stream text, expected bigint,
    types text[], event_ids uuid[], datas text[], metadatas text[], schema_versions smallint[], correlation_ids text[],
    causation_ids uuid[], occurred_ats timestamptz[], taggings text[], lock_tags text[],
    of_log text, ask_tags text[], ask_seens bigint[], ask_events uuid[], ask_types text[], ask_others text[],
    out before bigint, out positions bigint[], out conflict bigint,
    out written_tags text[], out written_seqs bigint[], out written_positions bigint[]
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
    is_overtaken constant bigint := -4611686018427387907;
    unlocked boolean;
begin
    if of_log is not null and current_setting('transaction_isolation') not like 'read %' then
        raise exception 'a decision needs READ COMMITTED, and this transaction is %', upper(current_setting('transaction_isolation'))
            using errcode = '25001';
    end if;
    select bool_and(case when k.shared then pg_try_advisory_xact_lock_shared(k.key) else pg_try_advisory_xact_lock(k.key) end)
    into unlocked
    from (
        select hashtextextended('"eventstore"' || chr(1) || of_tenant || chr(1) || of_stream, 0) as key, false as shared
        union all
        select t.hash, false
        from unnest(lock_tags) as u (tag),
             lateral (select hashtextextended('"eventstore"' || chr(3) || of_tenant || chr(3) || u.tag, 0) as hash) t
        union all
        select hashtextextended('"eventstore"' || chr(4) || (t.hash & 1023)::text, 0), true
        from unnest(lock_tags) as u (tag),
             lateral (select hashtextextended('"eventstore"' || chr(3) || of_tenant || chr(3) || u.tag, 0) as hash) t
    ) k;
    if not unlocked then
        before := is_contended;
        return;
    end if;
    with head as materialized (
        select coalesce((
            select e.version from "eventstore".events e
            where e.tenant_id = of_tenant and e.stream_id = of_stream
            order by e.version desc limit 1), 0) as version
    ),
    hit as materialized (
        select case
            when of_log is null then null
            when of_log <> left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '/' || '"eventstore".event_tags'::regclass::oid then 0
            when exists (
                select from unnest(ask_tags, ask_seens, ask_events) as a (tag, seen, event)
                where a.seen > 0 and (
                    select (select e.event_id from "eventstore".events e where e.position = x.position) from "eventstore".event_tags x
                    where x.tenant_id = of_tenant and x.tag = a.tag and x.seq = a.seen) is distinct from a.event) then 0
            else (
                select t.position
                from unnest(ask_tags, ask_seens, ask_types, ask_others) as a (tag, seen, kinds, others),
                     lateral (
                         select x.position
                         from "eventstore".event_tags x
                         where x.tenant_id = of_tenant and x.tag = a.tag and x.seq > a.seen
                           and (a.kinds is null or x.type = any(string_to_array(a.kinds, e'\x01')))
                           and (a.others is null or not exists (
                               select from unnest(string_to_array(a.others, e'\x01')) as o (tag)
                               where not exists (
                                   select from "eventstore".event_tags w
                                   where w.tenant_id = of_tenant and w.tag = o.tag and w.position = x.position offset 0)))
                         order by x.seq limit 1) t
                limit 1) end as position
    ),
    judged as materialized (
        select case when expected <> h.version and expected <> -1 and (expected <> -2 or h.version = 0) then -1 - h.version
                    when i.position is not null then is_overtaken
                    else h.version end as before
        from head h, hit i
    ),
    inserted as (
        insert into "eventstore".events (
            tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id, occurred_at, tags,
            data, metadata)
        select of_tenant, of_stream, j.before + x.ordinal, x.type, coalesce(x.schema_version, 1::smallint), x.event_id,
               x.correlation_id, x.causation_id, x.occurred_at, string_to_array(x.tags, e'\x01'), x.data::jsonb,
               coalesce(x.metadata, '{}')::jsonb
        from judged j,
             unnest(types, schema_versions, event_ids, correlation_ids, causation_ids, occurred_ats, taggings, datas, metadatas)
                 with ordinality
                 as x (type, schema_version, event_id, correlation_id, causation_id, occurred_at, tags, data, metadata, ordinal)
        where j.before >= 0
        order by x.ordinal
        returning events.position as drawn, events.type as type, events.tags as tags
    ),
    written as (
        insert into "eventstore".event_tags (tenant_id, tag, position, type)
        select of_tenant, t.tag, i.drawn, i.type
        from inserted i, unnest(i.tags) as t (tag)
        order by i.drawn
        returning event_tags.tag as tag, event_tags.seq as seq, event_tags.position as drawn
    )
    select j.before, (select array_agg(i.drawn order by i.drawn) from inserted i), i.position, w.tags, w.seqs, w.positions
    into before, positions, conflict, written_tags, written_seqs, written_positions
    from judged j, hit i,
         (select array_agg(w.tag) as tags, array_agg(w.seq) as seqs, array_agg(w.drawn) as positions from written w) w;
end
$function$;

comment on function "eventstore".append_tagged_one_v1 is 'append_tagged_v1 for one append, on connections of the library''s own';

do $do$
declare
    prefix text := trim(both '"' from '"eventstore"');
    granted record;
begin
    for granted in
        select * from (values ('_read', 'select'), ('_append', 'select, insert'), ('_follow', 'select'))
            as g (suffix, rights)
    loop
        if exists (select from pg_roles where rolname = prefix || granted.suffix) then
            execute format('grant %s on "eventstore".event_tags to %I', granted.rights, prefix || granted.suffix);
            execute format('grant select on all sequences in schema "eventstore" to %I', prefix || granted.suffix);
        end if;
    end loop;
end
$do$;

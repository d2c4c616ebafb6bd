-- What a decision over a boundary rests on: how far each of its tags has come, and the events that match, from one snapshot.
-- asked_tags: the tags that the items name, each once. item_tags, item_types: one element an item, its tags and its types joined by U+0001
-- (no types, null: any). An event matches an item if it carries all of its tags and has one of its types; it matches the boundary
-- if it matches one of the items.
-- Gives a row a tag that was asked about, and behind these a row an event that matches, in any order, with the columns of
-- queries/read_stream.sql. Of a tag: position is its highest seq (0: it has none), stream_id the tag, version null, type the log, as
-- which timeline of which table, data the id of the event that has that seq, and schema_version the state:
--   0  a decision can be made;
--   1  no: the server is a standby;
--   2  no: under REPEATABLE READ or SERIALIZABLE (in type) the snapshot stays behind what append_tagged_v1 has to look at;
--   3  no: the sequence of seq lies behind, as after a restore that left it out, so that rows to come would not be noticed.
-- STABLE, and one statement: one snapshot, which makes events and seqs fit each other.
-- Indexes: event_tags_pkey and events_position_key, one look-up a tag; event_tags_position_key, from the tag of an item that has the
-- fewest events, as far as 1,000 tell; events_position_key, one look-up an event.
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

-- What a decision over a boundary rests on: the events that match, and how far each tag has come, from one snapshot.
-- item_tags, item_types: one element an item, its tags and its types joined by U+0001 (no types, null: any). An event matches an
-- item if it carries all of its tags and has one of its types; it matches the boundary if it matches one of the items.
-- Gives log: which timeline of which table this was; seen_tags and seen_seqs: the highest seq of each tag, 0 where there is none;
-- seen_events: whose it is; positions: of the events that match, in order.
-- STABLE: all statements here see the snapshot of the statement that calls, which makes positions and seen_seqs fit each other.
-- Refused (ES002) where the sequence of seq lies behind, as after a restore that left it out: rows to come would not be noticed.
-- Refused (25001) under REPEATABLE READ and SERIALIZABLE, whose snapshot stays behind what append_tagged_v1 has to look at, and on
-- a standby, where nothing can be decided.
-- Indexes: event_tags_pkey and events_position_key, one look-up a tag; event_tags_position_key, from the tag of an item that has the fewest events,
-- as far as 1,000 tell.
create function "eventstore".boundary_v1(
    of_tenant text, item_tags text[], item_types text[],
    out log text, out seen_tags text[], out seen_seqs bigint[], out seen_events uuid[], out positions bigint[]
)
language plpgsql
stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $function$
begin
    if pg_is_in_recovery() then
        raise exception 'a decision needs the primary, and this server is a standby' using errcode = '25001';
    end if;
    if current_setting('transaction_isolation') not like 'read %' then
        raise exception 'a decision needs READ COMMITTED, and this transaction is %', upper(current_setting('transaction_isolation'))
            using errcode = '25001';
    end if;
    log := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '/' || '"eventstore".event_tags'::regclass::oid;
    select array_agg(t.tag), array_agg(coalesce(l.seq, 0)), array_agg(l.event_id)
    into seen_tags, seen_seqs, seen_events
    from (select distinct o.tag from unnest(item_tags) as i (tags), unnest(string_to_array(i.tags, e'\x01')) as o (tag)) t
    left join lateral (
        select x.seq, (select e.event_id from "eventstore".events e where e.position = x.position) as event_id
        from "eventstore".event_tags x
        where x.tenant_id = of_tenant and x.tag = t.tag order by x.seq desc limit 1) l on true;
    if (select max(s.seq) from unnest(seen_seqs) as s (seq))
        > pg_sequence_last_value('"eventstore".event_tags_seq_seq'::regclass) then
        raise exception 'the sequence "eventstore".event_tags_seq_seq lies behind the tags that were written' using errcode = 'ES002';
    end if;
    select array_agg(distinct m.position order by m.position)
    into positions
    from unnest(item_tags, item_types) as i (tags, kinds),
         lateral (
             select string_to_array(i.tags, e'\x01') as tags, string_to_array(i.kinds, e'\x01') as kinds offset 0) a,
         lateral (
             select o.tag
             from unnest(a.tags) as o (tag)
             order by case when cardinality(a.tags) > 1 then (
                 select count(*)
                 from (select from "eventstore".event_tags x where x.tenant_id = of_tenant and x.tag = o.tag limit 1000) c) end
             limit 1) rarest,
         lateral (
             select x.position
             from "eventstore".event_tags x
             where x.tenant_id = of_tenant and x.tag = rarest.tag and (a.kinds is null or x.type = any(a.kinds))
               and (cardinality(a.tags) = 1 or not exists (
                   select from unnest(a.tags) as o (tag)
                   where not exists (
                       select from "eventstore".event_tags w
                       where w.tenant_id = of_tenant and w.tag = o.tag and w.position = x.position)))
             offset 0) m;
end
$function$;

comment on function "eventstore".boundary_v1 is 'The events that match a boundary, and how far each of its tags has come';

-- What boundary_v1 says, without plpgsql, on a connection of the library's own: half its price. $1 tenant, $2 asked, $3 and $4 items;
-- rows as there. The text is that of the function.
-- Leans on the session's settings for reads, which are those of the function.
-- Index: event_tags_pkey, event_tags_position_key, events_position_key.
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
     unnest($2::text[]) as t (tag)
     left join lateral (
         select x.seq, (select e.event_id from "eventstore".events e where e.position = x.position) as event_id
         from "eventstore".event_tags x
         where x.tenant_id = $1::text and x.tag = t.tag
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
         from unnest($3::text[], $4::text[]) as i (tags, kinds),
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
                                   where x.tenant_id = $1::text and x.tag = o.tag limit 1000) y) end as events) c
                  offset 0) rarest,
              lateral (
                  select x.position
                  from "eventstore".event_tags x
                  where x.tenant_id = $1::text and x.tag = rarest.tag and (a.kinds is null or x.type = any(a.kinds))
                    and (cardinality(a.tags) = 1 or not exists (
                        select from unnest(a.tags) as o (tag)
                        where not exists (
                            select from "eventstore".event_tags w
                            where w.tenant_id = $1::text and w.tag = o.tag and w.position = x.position offset 0)))
                  offset 0) m) p,
     lateral (select * from "eventstore".events x where x.position = p.position offset 0) e

-- What matches a boundary, with the token of a decision, in one snapshot. $1 tenant, $2 and $3 items as boundary_v1 takes them. The
-- token stands in every row, which has no event where nothing matches.
-- Index: event_tags_pkey, event_tags_position_key, in boundary_v1. And events_position_key, one look-up an event.
-- The columns of an event as in read_stream.sql.
select e.position, e.stream_id::varchar, e.version, e.type::varchar, nullif(e.schema_version, 1::smallint), e.data::text::varchar,
       case when e.occurred_at is null and e.correlation_id is null and e.causation_id is null and e.metadata = '{}'
                 and e.tenant_id = '' and e.tags is null
            then uuid_send(e.event_id) || timestamptz_send(e.recorded_at)
            else uuid_send(e.event_id) || timestamptz_send(e.recorded_at)
                 || record_send(row(
                     e.occurred_at, convert_to(e.metadata::text, 'UTF8'), convert_to(e.correlation_id, 'UTF8'), e.causation_id,
                     convert_to(e.tenant_id, 'UTF8'), convert_to(array_to_string(e.tags, e'\x01'), 'UTF8'))) end,
       b.log::varchar, b.seen_tags::varchar[], b.seen_seqs, b.seen_events::varchar[]
from "eventstore".boundary_v1($1::varchar, $2::text[], $3::text[]) b
left join lateral unnest(b.positions) with ordinality as p (position, n) on true
left join lateral (select * from "eventstore".events x where x.position = p.position offset 0) e on true
order by p.n

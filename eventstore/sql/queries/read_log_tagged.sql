-- A batch of the log, of the events that carry all of some tags. $1 after (exclusive), $2 up to (inclusive: a settled position),
-- $3 limit, $4 the tag to go along, $5 the other tags or null, $6 types or null, $7 categories or null, $8 tenant.
-- Index: event_tags_position_key, along one tag, and one look-up an event for each other tag; events_position_key.
-- The columns of an event as in read_stream.sql.
select e.position, e.stream_id::varchar, e.version, e.type::varchar, nullif(e.schema_version, 1::smallint), e.data::text::varchar,
       case when e.occurred_at is null and e.correlation_id is null and e.causation_id is null and e.metadata = '{}'
                 and e.tenant_id = '' and e.tags is null
            then uuid_send(e.event_id) || timestamptz_send(e.recorded_at)
            else uuid_send(e.event_id) || timestamptz_send(e.recorded_at)
                 || record_send(row(
                     e.occurred_at, convert_to(e.metadata::text, 'UTF8'), convert_to(e.correlation_id, 'UTF8'), e.causation_id,
                     convert_to(e.tenant_id, 'UTF8'), convert_to(array_to_string(e.tags, e'\x01'), 'UTF8'))) end
from "eventstore".event_tags t
join lateral (select * from "eventstore".events x where x.position = t.position offset 0) e on true
where t.tenant_id = $8::varchar and t.tag = $4::varchar and t.position > $1 and t.position <= $2
  and ($6::text[] is null or t.type = any($6))
  and ($5::text[] is null or not exists (
      select from unnest($5::text[]) as o (tag)
      where not exists (
          select from "eventstore".event_tags w
          where w.tenant_id = $8::varchar and w.tag = o.tag and w.position = t.position offset 0)))
  and ($7::text[] is null or split_part(e.stream_id, '-', 1) = any($7))
order by t.position
limit $3

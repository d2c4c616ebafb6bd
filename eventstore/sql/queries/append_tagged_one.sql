-- Append one stream's events with tags, or a decision, on a connection of the library's own; see schema/16_append_tagged_one_v1.sql.
-- Index: events_pkey, backwards, one look-up; event_tags_pkey; event_tags_position_key; events_position_key, in append_tagged_one_v1.
select before, positions, conflict, written_tags, written_seqs, written_positions
from "eventstore".append_tagged_one_v1(
    $1::text, $2::text, $3::bigint, $4::text[], $5::uuid[], $6::text[], $7::text[], $8::smallint[], $9::text[], $10::uuid[],
    $11::timestamptz[], $12::text[], $13::text[], $14::text, $15::text[], $16::bigint[], $17::uuid[], $18::text[], $19::text[])

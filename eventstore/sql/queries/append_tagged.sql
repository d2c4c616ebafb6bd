-- Append a group with tags or boundaries, on any connection; see schema/15_append_tagged_v1.sql. All parameters travel as text[], as in
-- append.sql. $26: waiting and patience.
-- Index: events_pkey, backwards, one look-up a stream; requests_pkey; event_tags_pkey; event_tags_position_key; events_position_key, in append_tagged_v1.
select versions, positions, known_streams, known_firsts, known_lasts, known_positions, conflicts, written_tags, written_seqs,
       written_positions
from "eventstore".append_tagged_v1(
    $1::text[], $2::text[], $3::text[]::bigint[], $4::text[]::int[], $5::text[]::int[], $6::text[], $7::text[]::uuid[],
    $8::text[], $9::text[], $10::text[]::smallint[], $11::text[], $12::text[]::uuid[], $13::text[]::timestamptz[],
    $14::text[], $15::text[]::int[], $16::text[], $17::text[], $18::text[]::int[], $19::text[], $20::text[]::bigint[],
    $21::text[]::uuid[], $22::text[], $23::text[], $24::text[], $25::text[]::bytea[], (($26::text[])[1])::boolean,
    ($26::text[])[2])

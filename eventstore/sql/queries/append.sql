-- Append a group, on any connection; see schema/11_append_v2.sql. The connection may be somebody else's, and so are its codecs:
-- all parameters travel as text[], the one array that asyncpg knows by itself. It asks the server about no type, and meets
-- no codec that was set for text, uuid, timestamptz, bytea or jsonb (tests/test_join.py). $16: waiting and patience.
-- Index: events_pkey, backwards, one look-up a stream; requests_pkey, in append_v2.
select versions, positions, known_streams, known_firsts, known_lasts, known_positions
from "eventstore".append_v2(
    $1::text[], $2::text[], $3::text[]::bigint[], $4::text[]::int[], $5::text[]::int[], $6::text[], $7::text[]::uuid[],
    $8::text[], $9::text[], $10::text[]::smallint[], $11::text[], $12::text[]::uuid[], $13::text[]::timestamptz[],
    $14::text[], $15::text[]::bytea[], (($16::text[])[1])::boolean, ($16::text[])[2])

-- Append a group that has lost a race; see schema/07_append_contended_v1.sql. JSON travels as text, so that no codec of a foreign connection matters.
-- Index: events_pkey, backwards, one look-up a stream in append_v1.
select head, actual, last_position
from "eventstore".append_contended_v1(
    $1::text[], $2::text[], $3::bigint[], $4::int[], $5::int[], $6::text[], $7::smallint[], $8::uuid[], $9::text[],
    $10::uuid[], $11::timestamptz[], $12::text[]::jsonb[], $13::text[]::jsonb[])

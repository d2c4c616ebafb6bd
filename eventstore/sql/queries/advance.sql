-- How far the log goes on without a hole. $1 a position up to which everything is decided, $2 how many positions to look at.
-- Returns the last position before the first hole (null: there is none behind $1 within reach), the last position seen, the
-- last one given out, and since when the server runs.
-- The bound keeps it from walking over all that a large transaction has inserted and not committed, at each look (50 ms at
-- 200,000 rows, measured).
-- Index: events_position_key, index-only once vacuumed. (The sequence by its function: reading it is a scan that the settings
-- of readers disable.)
select max(position) filter (where position = $1 + n), max(position),
       coalesce(pg_catalog.pg_sequence_last_value('"eventstore".events_position_seq'::regclass), 0),
       pg_catalog.pg_postmaster_start_time()
from (
    select position, row_number() over (order by position) as n
    from (select position from "eventstore".events where position > $1 and position <= $1 + $2 order by position) chunk
) numbered

-- How far the log goes on without a hole. $1 a position up to which everything is decided, $2 how many rows to look at.
-- Returns the last position before the first hole (null: there is none behind $1), the last position looked at, and since
-- when the server runs.
-- Index: events_position_key, index-only once vacuumed.
select max(position) filter (where position = $1 + n), max(position), pg_catalog.pg_postmaster_start_time()
from (
    select position, row_number() over (order by position) as n
    from (select position from "eventstore".events where position > $1 order by position limit $2) chunk
) numbered

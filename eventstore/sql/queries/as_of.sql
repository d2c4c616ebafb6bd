-- The position that the log had reached at $1, null where no later mark exists; and the database's time.
-- Index: time_marks_pkey, events_position_key; in as_of_v1.
select "eventstore".as_of_v1($1), clock_timestamp()

-- Publish a settled mark; see schema/08_publish_mark_v1.sql. $1 position, $2 when it was read, $3 even if it has not moved.
-- Index: time_marks_pkey, backwards, in publish_mark_v1; safe_mark has one row.
select "eventstore".publish_mark_v1($1, $2, $3)

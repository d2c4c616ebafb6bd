-- What matches a boundary, with the token of a decision, on any connection: schema/14_boundary_v1.sql says what rows it gives. $1 tenant,
-- $2 the tags that are asked about, each once, $3 and $4 items.
-- Index: event_tags_pkey, event_tags_position_key, events_position_key, in boundary_v1.
select * from "eventstore".boundary_v1($1::varchar, $2::text[], $3::text[], $4::text[])

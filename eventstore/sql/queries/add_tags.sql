-- Write rows of tags for events that are there, in the order given, and leave out those that are there already. $1 tenants, $2 tags,
-- $3 positions, $4 types, one element a row each. The transaction holds the locks of the tags (lock_tags.sql).
-- Index: event_tags_position_key.
insert into "eventstore".event_tags (tenant_id, tag, position, type)
select u.tenant, u.tag, u.position, u.type
from unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) with ordinality as u (tenant, tag, position, type, n)
order by u.n
on conflict (tenant_id, tag, position) do nothing
returning 1

-- Which of these rows of tags are not there yet? $1 tenants, $2 tags, $3 positions, one element a row each. Gives their places, 1-based.
-- Rows never go, so what is there needs no lock to be known.
-- Index: event_tags_position_key.
select u.n
from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as u (tenant, tag, position, n)
where not exists (
    select from "eventstore".event_tags t
    where t.tenant_id = u.tenant and t.tag = u.tag and t.position = u.position offset 0)

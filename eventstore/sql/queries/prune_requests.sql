-- Forget the oldest requests. $1: older than so many seconds, by the database's clock; $2: at most so many.
-- Index: requests_at_idx.
delete from "eventstore".requests r
using (
    select q.tenant_id, q.request_id from "eventstore".requests q
    where q.at < statement_timestamp() - make_interval(secs => $1)
    order by q.at
    limit $2
    for update skip locked
) old
where r.tenant_id = old.tenant_id and r.request_id = old.request_id
returning 1

-- Was this request committed? $1 tenant, $2 request.
-- Index: requests_pkey.
select position from "eventstore".requests where tenant_id = $1 and request_id = $2

-- append_v1 behind an advisory lock on each stream: where a plain append has lost a race for a version, contenders queue
-- here instead of trying again and again. Same parameters, same result.
-- Locks: transaction-level advisory locks, one a stream, in the order of their hashes; then as append_v1.
-- Each statement of this VOLATILE function has a snapshot of its own, so append_v1 sees what the lock waited for.
create function "eventstore".append_contended_v1(
    tenants text[], streams text[], expects bigint[],
    heads int[], ordinals int[], types text[], schema_versions smallint[], event_ids uuid[], correlation_ids text[],
    causation_ids uuid[], occurred_ats timestamptz[], datas jsonb[], metadatas jsonb[]
) returns table (head int, actual bigint, last_position bigint)
language plpgsql
as $function$
begin
    perform pg_advisory_xact_lock(k.key)
    from (
        select distinct hashtextextended('"eventstore"' || chr(1) || u.tenant || chr(1) || u.stream, 0) as key
        from unnest(tenants, streams) as u (tenant, stream)
        order by 1
    ) k;
    return query select * from "eventstore".append_v1(
        tenants, streams, expects, heads, ordinals, types, schema_versions, event_ids, correlation_ids, causation_ids,
        occurred_ats, datas, metadatas);
end
$function$;

comment on function "eventstore".append_contended_v1 is 'append_v1, queueing on an advisory lock per stream';

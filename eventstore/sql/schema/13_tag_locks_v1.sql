-- The advisory locks that a transaction takes before it writes rows of these tags, or decides over them: the tag's own, and,
-- shared, that of the bucket which the tag falls into. Above 256 tags it takes the buckets alone, at most 1,024, exclusively:
-- the server's table of locks is small, and one import may touch a million tags.
-- heads, tenants and tags: one element a tag each; heads is handed through.
create function "eventstore".tag_locks_v1(heads int[], tenants text[], tags text[])
returns table (head int, key bigint, shared boolean)
language sql
immutable
as $function$
    with t as materialized (
        select u.head, hashtextextended('"eventstore"' || chr(3) || u.tenant || chr(3) || u.tag, 0) as hash
        from unnest(heads, tenants, tags) as u (head, tenant, tag)
    ),
    f as materialized (select count(distinct t.hash) <= 256 as few from t)
    select t.head, t.hash, false from t, f where f.few
    union all
    select t.head, hashtextextended('"eventstore"' || chr(4) || (t.hash & 1023)::text, 0), f.few from t, f
$function$;

comment on function "eventstore".tag_locks_v1 is 'The advisory locks to take before rows of these tags are written';

-- Takes them, in the order of their keys; for whoever writes rows of tags by other means than append_tagged_v1. They are held until
-- the transaction ends. One element a tag in tenants and tags.
create function "eventstore".lock_tags_v1(tenants text[], tags text[]) returns void
language plpgsql
as $function$
begin
    perform case when k.shared then pg_advisory_xact_lock_shared(k.key) else pg_advisory_xact_lock(k.key) end
    from (select distinct l.key, l.shared from "eventstore".tag_locks_v1(null, tenants, tags) l order by 1) k;
end
$function$;

comment on function "eventstore".lock_tags_v1 is 'Take the locks that writing rows of these tags needs';

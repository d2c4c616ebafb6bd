-- Revision 0001: the log and what follows it. Frozen: never edited once released; a change is a new revision.

create schema if not exists "eventstore";

comment on schema "eventstore" is 'pg-eventstore: the log and what follows it';

create table "eventstore".events (
    position bigint generated always as identity (cache 1),
    tenant_id text collate "C" not null default '',
    stream_id text collate "C" not null,
    version bigint not null constraint events_version_positive check (version > 0),
    type text collate "C" not null,
    schema_version smallint not null default 1,
    event_id uuid not null,
    correlation_id text,
    causation_id uuid,
    occurred_at timestamptz,
    recorded_at timestamptz not null default clock_timestamp(),
    tags text[],
    data jsonb not null,
    metadata jsonb not null default '{}',
    constraint events_pkey primary key (tenant_id, stream_id, version)
) with (
    -- Insert-only: vacuum after inserts keeps the visibility map and the BRIN summaries fresh; there is nothing to freeze
    -- around but what grew.
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.02
);

create unique index events_position_key on "eventstore".events (position);

create index events_event_id_brin on "eventstore".events using brin (event_id uuid_minmax_multi_ops) with (autosummarize = on);

create index events_recorded_at_brin on "eventstore".events using brin (recorded_at) with (autosummarize = on);

comment on table "eventstore".events is 'The log: append-only, one row an event';

comment on column "eventstore".events.position is 'Place in the whole log; grows, with holes where appends were rolled back';

comment on column "eventstore".events.version is 'Place in the stream: 1, 2, 3, ... without a hole';

comment on column "eventstore".events.occurred_at is 'Valid time; null means recorded_at';

create function "eventstore".refuse_rewrite() returns trigger
language plpgsql
set search_path = pg_catalog
as $function$
begin
    if coalesce(current_setting('eventstore.rewritten_by', true), '') <> '' then
        return null;
    end if;
    raise exception 'the event log is append-only: % on %.% is refused', tg_op, tg_table_schema, tg_table_name
        using errcode = 'restrict_violation',
              hint = 'Append an event that corrects the earlier one.';
end
$function$;

create trigger events_append_only
    before update or delete or truncate on "eventstore".events
    for each statement execute function "eventstore".refuse_rewrite();

create table "eventstore".safe_mark (
    singleton boolean not null default true constraint safe_mark_one_row check (singleton),
    position bigint not null default 0,
    log_epoch uuid not null default gen_random_uuid(),
    constraint safe_mark_pkey primary key (singleton)
) with (fillfactor = 50);

insert into "eventstore".safe_mark default values;

comment on table "eventstore".safe_mark is 'One row: all positions up to it are settled; log_epoch names this log';

create table "eventstore".time_marks (
    at timestamptz not null,
    position bigint not null,
    constraint time_marks_pkey primary key (at)
) with (autovacuum_vacuum_insert_scale_factor = 0.05);

create trigger time_marks_append_only
    before update or delete or truncate on "eventstore".time_marks
    for each statement execute function "eventstore".refuse_rewrite();

comment on table "eventstore".time_marks is 'The log had given out no position beyond this one at that time; all up to it are settled';

create function "eventstore".append_v1(
    tenants text[], streams text[], expects bigint[],
    heads int[], ordinals int[], types text[], schema_versions smallint[], event_ids uuid[], correlation_ids text[],
    causation_ids uuid[], occurred_ats timestamptz[], datas jsonb[], metadatas jsonb[]
) returns table (head int, actual bigint, last_position bigint)
language plpgsql
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
    with h as materialized (
        select u.n::int as n, u.tenant, u.stream, u.expect,
               coalesce((
                   select e.version from "eventstore".events e
                   where e.tenant_id = u.tenant and e.stream_id = u.stream
                   order by e.version desc limit 1), 0) as version
        from unnest(tenants, streams, expects) with ordinality as u (tenant, stream, expect, n)
    ),
    inserted as (
        insert into "eventstore".events (
            tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id, occurred_at,
            data, metadata)
        select h.tenant, h.stream, h.version + x.ordinal, x.type, x.schema_version, x.event_id, x.correlation_id,
               x.causation_id, x.occurred_at, x.data, x.metadata
        from unnest(heads, ordinals, types, schema_versions, event_ids, correlation_ids, causation_ids, occurred_ats,
                    datas, metadatas) with ordinality
             as x (head, ordinal, type, schema_version, event_id, correlation_id, causation_id, occurred_at, data,
                   metadata, place)
        join h on h.n = x.head
        where h.expect = h.version or h.expect = -1 or (h.expect = -2 and h.version > 0)
        order by x.place
        returning events.tenant_id, events.stream_id, events.position as drawn
    )
    select h.n, h.version, i.drawn
    from h
    left join (
        select inserted.tenant_id, inserted.stream_id, max(inserted.drawn) as drawn from inserted group by 1, 2
    ) i on i.tenant_id = h.tenant and i.stream_id = h.stream;
end
$function$;

comment on function "eventstore".append_v1 is 'Append to several streams at once; each append succeeds or is refused by itself';

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

create function "eventstore".publish_mark_v1(marked bigint, seen_at timestamptz, always boolean) returns boolean
language plpgsql
as $function$
declare
    mark bigint;
    latest "eventstore".time_marks;
begin
    select s.position into mark from "eventstore".safe_mark s for update;
    if marked > mark then
        update "eventstore".safe_mark set position = marked;
    end if;
    select t.* into latest from "eventstore".time_marks t order by t.at desc limit 1;
    if latest.at is null or (seen_at > latest.at and (always or marked > latest.position)) then
        insert into "eventstore".time_marks (at, position) values (seen_at, greatest(marked, coalesce(latest.position, 0)));
        return true;
    end if;
    return false;
end
$function$;

comment on function "eventstore".publish_mark_v1 is 'Raise the safe mark and note a time mark';

create function "eventstore".as_of_v1(asked timestamptz) returns bigint
language plpgsql
stable
set enable_seqscan = off
set jit = off
as $function$
declare
    earlier bigint;
    later bigint;
    beyond bigint;
begin
    select t.position into later from "eventstore".time_marks t where t.at > asked order by t.at limit 1;
    if later is null then
        return null;
    end if;
    select t.position into earlier from "eventstore".time_marks t where t.at <= asked order by t.at desc limit 1;
    select e.position into beyond from "eventstore".events e
    where e.position > coalesce(earlier, 0) and e.position <= later and e.recorded_at > asked
    order by e.position limit 1;
    return coalesce(beyond - 1, later);
end
$function$;

comment on function "eventstore".as_of_v1 is 'The position that the log had reached at a time';

do $do$
declare
    prefix text := trim(both '"' from '"eventstore"');
    role text;
begin
    foreach role in array array[prefix || '_read', prefix || '_append'] loop
        begin
            if not exists (select from pg_roles where rolname = role) then
                execute format('create role %I nologin', role);
            end if;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise notice 'role % was not created: % may not create roles', role, current_user;
                continue;
        end;
        execute format('grant usage on schema "eventstore" to %I', role);
        execute format('grant select on all tables in schema "eventstore" to %I', role);
        execute format('grant select on all sequences in schema "eventstore" to %I', role);
        if role = prefix || '_append' then
            execute format('grant insert on "eventstore".events, "eventstore".time_marks to %I', role);
            execute format('grant update (position) on "eventstore".safe_mark to %I', role);
        end if;
    end loop;
end
$do$;

create table "eventstore".checkpoints (
    follower text collate "C" not null,
    shard int not null default 0,
    position bigint not null default 0,
    epoch bigint not null default 0,
    updated_at timestamptz not null default clock_timestamp(),
    constraint checkpoints_pkey primary key (follower, shard)
) with (fillfactor = 50);

comment on table "eventstore".checkpoints is 'Everything up to this position has taken effect in the follower, exactly once';

create table "eventstore".daemons (
    owner uuid not null,
    name text not null,
    started_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    constraint daemons_pkey primary key (owner)
) with (fillfactor = 50);

comment on table "eventstore".daemons is 'Heartbeats: a daemon whose row has expired has lost its leases';

create table "eventstore".leases (
    follower text collate "C" not null,
    shard int not null default 0,
    owner uuid not null,
    pid int not null,
    backend_start timestamptz not null,
    taken_at timestamptz not null default clock_timestamp(),
    constraint leases_pkey primary key (follower, shard)
) with (fillfactor = 50);

comment on table "eventstore".leases is 'Which daemon runs which follower';

do $do$
declare
    prefix text := trim(both '"' from '"eventstore"');
    role text := prefix || '_follow';
begin
    if exists (select from pg_roles where rolname = prefix || '_read') then
        execute format('grant select on "eventstore".checkpoints, "eventstore".daemons, "eventstore".leases to %I', prefix || '_read');
    end if;
    begin
        if not exists (select from pg_roles where rolname = role) then
            execute format('create role %I nologin', role);
        end if;
    exception
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
            raise notice 'role % was not created: % may not create roles', role, current_user;
            return;
    end;
    execute format('grant usage on schema "eventstore" to %I', role);
    execute format('grant select on all tables in schema "eventstore" to %I', role);
    execute format('grant select on all sequences in schema "eventstore" to %I', role);
    execute format('grant insert on "eventstore".time_marks to %I', role);
    execute format('grant update (position) on "eventstore".safe_mark to %I', role);
    execute format('grant insert, update on "eventstore".checkpoints to %I', role);
    execute format('grant insert, update, delete on "eventstore".leases, "eventstore".daemons to %I', role);
end
$do$;


-- Least privilege: group roles without login, named after the schema, which an administrator grants to users.
--   eventstore_read     reads everything
--   eventstore_append   appends (INSERT, never UPDATE or DELETE of events), reads, publishes marks, prunes requests
-- Roles belong to the whole cluster: a migration by a user who may not create them leaves them out and says so; run this
-- file again as one who may. Dropping the schema leaves the roles: other databases may use them.
-- Concurrent migrations of two databases may both create a role: one of them finds it there.
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
            execute format('grant insert on "eventstore".events, "eventstore".event_tags, "eventstore".time_marks to %I', role);
            execute format('grant insert, delete on "eventstore".requests to %I', role);
            execute format('grant update (position) on "eventstore".safe_mark to %I', role);
        end if;
    end loop;
end
$do$;

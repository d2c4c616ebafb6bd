-- eventstore_follow: reads the log, keeps checkpoints and leases, publishes marks. Made as the roles of the log are.
-- Who may read the log may see how far its followers are.
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

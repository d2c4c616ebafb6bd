-- Refuses UPDATE, DELETE and TRUNCATE of the log. A guard rail against mistakes, not security: whoever may disable a
-- trigger or set the setting can pass it; the grants are what keeps others out.
-- Parameter: the transaction-local setting eventstore.rewritten_by names the procedure that may rewrite, none by default.
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

-- The position up to which the log was known at a time; null where no time mark later than it exists yet (make one,
-- publish_mark_v1 with always, and ask again).
-- The two time marks around it never change and nor do the events up to the later one, so neither does the answer:
-- from the earlier mark on, up to the first event that was recorded after the time asked for.
-- Indexes: time_marks_pkey twice, events_position_key from mark to mark.
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

-- Publishes a settled mark: raises safe_mark, and notes the time.
-- Parameters: marked, a position such that every position up to it is settled; seen_at, the database's time when that
-- position was read from the sequence; always, whether a time mark is wanted even though the position did not move.
-- Both columns of time_marks never decrease: a mark that is older than the last one, by position or by a clock that
-- went back, is not noted. Returns whether a time mark was noted.
-- Locks: the row of safe_mark, so that publishers queue; each statement below then sees what the one before committed.
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

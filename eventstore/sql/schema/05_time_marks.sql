-- How far had the log come, when: append-only, both columns never decrease (publish_mark_v1 sees to it).
-- "As of a time" is answered from here (as_of_v1), so that an answer once given never changes.
create table "eventstore".time_marks (
    at timestamptz not null,
    position bigint not null,
    constraint time_marks_pkey primary key (at)
) with (autovacuum_vacuum_insert_scale_factor = 0.05);

create trigger time_marks_append_only
    before update or delete or truncate on "eventstore".time_marks
    for each statement execute function "eventstore".refuse_rewrite();

comment on table "eventstore".time_marks is 'The log had given out no position beyond this one at that time; all up to it are settled';

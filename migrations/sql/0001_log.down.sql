-- Revision 0001, undone. The schema itself and its version table stay: Alembic still needs them.
drop table "eventstore".leases;

drop table "eventstore".daemons;

drop table "eventstore".checkpoints;

drop function "eventstore".as_of_v1;

drop function "eventstore".publish_mark_v1;

drop function "eventstore".append_contended_v1;

drop function "eventstore".append_v1;

drop table "eventstore".time_marks;

drop table "eventstore".safe_mark;

drop table "eventstore".events;

drop function "eventstore".refuse_rewrite;

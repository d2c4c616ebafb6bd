-- Revision 0003, undone. Events keep their tags; which events carry a tag, decisions and readers can no longer ask.
drop function "eventstore".append_tagged_one_v1;

drop function "eventstore".append_together_v1;

drop function "eventstore".append_tagged_v1;

drop function "eventstore".boundary_v1;

drop function "eventstore".lock_tags_v1;

drop function "eventstore".tag_locks_v1;

drop table "eventstore".event_tags;

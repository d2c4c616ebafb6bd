-- Revision 0002, undone. What was appended under request ids stays in the log; that it was is forgotten.
drop function "eventstore".append_v2;

drop table "eventstore".requests;

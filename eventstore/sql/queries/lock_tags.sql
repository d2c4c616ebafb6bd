-- Take, until the transaction ends, the locks that writing rows of these tags needs. $1 tenants and $2 tags, one element a tag each;
-- $3 how long the transaction waits for a lock, these and later ones, as lock_timeout has it. Gives the last position that was given
-- out so far, and has what follows in the transaction planned for an index in its order: the session may be one that allows all.
-- Its commit waits for the disk, also where synchronous_commit is off: whoever repeats an import or a back-fill that a crash has
-- lost writes the same events under numbers that may come again, and a token tells rows of one number apart by their event.
-- Cold: no table.
with settings as materialized (
    select set_config('lock_timeout', $3::text, true),
           set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true),
           set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)
)
select coalesce(pg_catalog.pg_sequence_last_value('"eventstore".events_position_seq'::regclass), 0),
       "eventstore".lock_tags_v1($1::text[], $2::text[])
from settings

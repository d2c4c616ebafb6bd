-- Which events carry which tags, for decisions over a boundary (boundary_v1) and for reading the log by tag. One row a tag of an
-- event, written with the event, or later by a back-fill; a decision rests on these rows, never on events.tags.
--
-- seq orders the rows of one tag as they became visible: whoever writes a row of a tag first takes that tag's lock
-- (tag_locks_v1) and keeps it until its transaction ends, and seq is drawn after that. So whoever has seen a seq of a tag has
-- seen every row of that tag below it, which of positions is only true of the settled part of the log.
-- CACHE 1: a range that a session keeps would be handed out long after the lock was taken.
create table "eventstore".event_tags (
    tenant_id text collate "C" not null default '',
    tag text collate "C" not null,
    seq bigint generated always as identity (cache 1),
    position bigint not null,
    type text collate "C" not null,
    constraint event_tags_pkey primary key (tenant_id, tag, seq)
) with (
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.02
);

create unique index event_tags_position_key on "eventstore".event_tags (tenant_id, tag, position);

create trigger event_tags_append_only
    before update or delete or truncate on "eventstore".event_tags
    for each statement execute function "eventstore".refuse_rewrite();

comment on table "eventstore".event_tags is 'One row a tag of an event; seq orders the rows of a tag as they became visible';

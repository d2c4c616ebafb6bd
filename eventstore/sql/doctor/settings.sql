-- Settings as a connection gets them that asks for none. $1 names. Cold.
select name, setting, source, sourcefile from pg_catalog.pg_settings where name = any($1::text[])

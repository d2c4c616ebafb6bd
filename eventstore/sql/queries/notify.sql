-- Wake the listeners of other processes; the payload is empty, a notification says no more than "look".
-- Cold: reads no table.
select pg_catalog.pg_notify(trim(both '"' from '"eventstore"') || '_log', '')

-- Bound the pauses of a takeover: a process that is stopped inside one would keep others out for as long as the server
-- lets a transaction idle (20 s). Local to the transaction.
-- Cold: reads no table.
select set_config('idle_in_transaction_session_timeout', '2s', true)

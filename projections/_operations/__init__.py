"""Statements of followers: checkpoints, leases, heartbeats. Generators, as in `eventstore._operations`."""

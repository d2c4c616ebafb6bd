"""Drivers: run the operations of `eventstore._operations` on a real connection. One module a driver."""

"""Followers of the log: whatever keeps a durable cursor."""

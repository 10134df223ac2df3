"""The in-memory adapter of the EventLog port, one file per role."""

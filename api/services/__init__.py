"""Services shared by routes and background tasks. Nothing here knows HTTP.

submissions         sends a command and waits for its outcome
in_flight           records on their way to the log
look_ups            commands by their position in the log
client_secrets      client secrets of payments, from the provider
followed_messages   ids of processed messages of the provider
audit               writes audit records; audit_spool keeps those that wait for the log
erasure             erases the contacts of customers
loop_lag            measures the lag of the event loop
"""

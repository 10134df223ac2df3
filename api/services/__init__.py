"""What routes and background work share. Nothing here knows HTTP.

submissions         send a command and wait for its outcome; look_ups: commands by their place in the log
client_secrets      what browsers pay with, from the provider; followed_messages: which of its messages were followed
audit               who did and saw what no event tells; audit_spool keeps what waits for the log
erasure             a customer's contacts, erased when asked for
in_flight           records on their way to the log
loop_lag            how late the event loop is
"""

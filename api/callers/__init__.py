"""Who calls, and what they may do, see and use.

auth         bearer tokens and roles; tokens_file reads a running node's tokens again
limits       how much each caller may ask for
proxies      whose word about a client counts
"""

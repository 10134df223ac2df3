"""Callers: who they are, and how much they may request.

auth         bearer tokens and roles
tokens_file  reloads the tokens of a running node
limits       rate limits
proxies      which proxies are trusted
"""

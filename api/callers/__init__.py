"""Callers: who they are, and how much they may request.

auth           bearer tokens of the tokens file, and roles
tokens_file    reloads the tokens of a running node
oidc           signed tokens of an issuer, beside them
issuer_rules   the settings about the issuer, and the mapping of claims to callers
issuer         the issuer's keys: fetched, refreshed, kept for a start without it
signed_tokens  checks signatures and claims; the only importer of `joserfc`
roles          the roles
limits         rate limits
proxies        which proxies are trusted
"""

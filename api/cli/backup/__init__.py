"""A backup of a whole ledger in one folder, and the way back: the verbs `backup`, `restore` and `backup-key`.

manifest.json           what the folder has: positions, increments, size and SHA-256 of every part; signed with LEDGER_HASH_KEY
000001/ledger.avro      the increment's events and refusals, in the form of `export-log`
000001/contacts.age     its records of `order-contacts`, one JSON object a line, encrypted with age for BACKUP_RECIPIENTS
000001/heads.json       the heads of the chains after it, signed as by `verify --write-heads`
000001/control.json     the feature level in use, and every published schema
000001/settings.json    settings without secrets, and the names of the secrets that were set
000001/tokens.json      the tokens file, which has only hashes

Each part imports only those below it:

running     the verbs: read settings, call the others, show the result
making      adds an increment
restoring   writes a proven backup to an empty cluster
proving     checks a backup from end to end without a cluster
choosing    which contacts come back: those of a restored order whose person is not erased. Pure
surroundings  settings, tokens, schemas and level as files
manifest    the manifest, its signature, and what can be wrong with a part
contact_lines  records of contacts as lines
age         the door to the library that encrypts

**Why age.** The machine that makes backups has only a public key: whoever takes it over cannot read the contacts of any backup.
The secret key is needed for a restore alone, and stays with a person until then. The format is specified, and several programs
read it, so `age -d -i key.txt contacts.age` works without this project. AES-GCM would need a secret on every machine that makes
backups, and a format for streams. Public keys authenticate nobody: that the parts are the ledger's own is shown by the signature
of the manifest, which has their hashes.
"""

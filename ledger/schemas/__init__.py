"""The Avro schemas of the topics.

versions        files, versions, ids; data_files: location of the files
codec           record value <-> bytes (fastavro)
compatibility   whether every version can read every other one
of_the_ledger   schemas of later programs, and the feature level at which all programs write
registry        publishes the schemas to a schema registry, and checks them there
"""

"""The Avro schemas of the topics.

versions        files, versions, ids; data_files: where the files are
codec           record value <-> bytes (fastavro)
compatibility   can every version read what every other wrote
registry        the schemas in a schema registry
"""

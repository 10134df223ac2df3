"""The HTTP contract: what requests and answers look like, and the OpenAPI and AsyncAPI documents made from it."""

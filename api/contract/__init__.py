"""The HTTP contract: shapes of requests and answers, and the OpenAPI and AsyncAPI documents generated from them."""

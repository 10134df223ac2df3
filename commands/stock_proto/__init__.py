"""The stock contract over gRPC: `stock.proto`, for the services' owners, and what protoc makes of it (a test makes it again)."""

"""The OpenAI-compatible API over HTTP, in front of the same services as gRPC."""

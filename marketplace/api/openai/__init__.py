"""The OpenAI dialect at `/v1`: what the official Python and Node clients send and expect."""

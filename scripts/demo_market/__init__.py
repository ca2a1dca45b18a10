"""The demo: real parts, started as their users would start them."""

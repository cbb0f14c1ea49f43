"""Recognition as a service: a front that talks to clients, and engine processes that it keeps alive."""

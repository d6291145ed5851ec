"""The gateway: a stateless FastAPI process that admits requests, chooses a replica and relays bytes."""

"""Which replica answers a request. One policy per file, each exposing ``POLICY``."""

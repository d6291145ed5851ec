"""The resources of the API. One module each, exposing ``router`` and, where it has hot routes, ``HOT``."""

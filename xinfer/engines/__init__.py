"""Adapters to the libraries that run models. One module (or folder) per engine, exposing ``ENGINE``."""

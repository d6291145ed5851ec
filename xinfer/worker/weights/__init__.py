"""Weights from hubs: downloaded once for all replicas that wait for them, verified, and kept.

``catalog/hubs.py`` speaks with hubs and ``catalog/repository.py`` says which files a model needs. Here, ``progress``
says how far they are (pure); ``cache`` is the folder of one repository and ``transfer`` fills one file of it; ``store``
knows which sets of files are complete and who uses them; ``fetch`` makes a set complete, ``downloads`` does so once for
all who wait, ``held`` keeps it for replicas, and ``pulls`` are the downloads that somebody ordered. ``keeper`` has all
of that for one worker, and ``actor`` is what the supervisor calls.

The hubs' own libraries are not used to download, and ``docs/adr/0007-downloads.md`` says why. The layout on disk is
that of Hugging Face's library, so that each finds what the other downloaded.
"""

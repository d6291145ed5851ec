"""Models that another server serves: any URL that speaks OpenAI's API, under a name of ours.

==============  ===================================================================
engine.py       passes requests on
options.py      where the endpoint is, and how it is asked (pure)
refusing.py     what the endpoint's errors mean to our clients (pure)
==============  ===================================================================
"""

from xinfer.engines.remote.engine import RemoteEngine

ENGINE = RemoteEngine

__all__ = ["ENGINE", "RemoteEngine"]

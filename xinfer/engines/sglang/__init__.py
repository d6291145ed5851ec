"""SGLang as its own server, a child of the replica's process, with every request passed through to it.

==============  ===========================================================================
engine.py       declares what it can do; importable without the library
arguments.py    from the options of a launch and the slice to the arguments of its server (pure)
parsers.py      which of its parsers read what a model writes (pure)
free_memory.py  how much memory the cards have free, which is what its share is of
server.py       the child: started, waited for, watched, ended
child.py        what runs in the child before SGLang does
adapters.py     what adapters ask of its arguments and of a request (pure)
changes.py      adapters that come and go while it runs
requirements.py what an environment for it holds
==============  ===========================================================================
"""

from xinfer.engines.sglang.engine import SglangEngine

ENGINE = SglangEngine

__all__ = ["ENGINE", "SglangEngine"]

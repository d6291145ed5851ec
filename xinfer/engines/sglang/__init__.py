"""SGLang as its own server, a child of the replica's process, with every request passed through to it.

==============  ===========================================================================
engine.py       declares what it can do; importable without the library
arguments.py    from the options of a launch and the slice to the arguments of its server (pure)
checks.py       what it is not asked, because its server would end (pure)
seeds.py        when it looks at seeds (pure)
refusing.py     what it says of a request that it refuses, in fewer words (pure)
free_memory.py  how much memory the cards have free, which is what its share is of
server.py       the child: started, waited for, watched, ended
child.py        what runs in the child before SGLang does
adapters.py     what adapters ask of its arguments and of a request (pure)
changes.py      adapters that come and go while it runs
gang.py         how one model runs on several workers (pure)
traces.py       what it leaves behind when it is killed
requirements.py what an environment for it holds
==============  ===========================================================================
"""

from xinfer.engines.sglang.engine import SglangEngine

ENGINE = SglangEngine

__all__ = ["ENGINE", "SglangEngine"]

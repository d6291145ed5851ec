"""A deployment as clients are told of it."""

import msgspec

from xinfer import plugins
from xinfer.spec import Deployment
from xinfer.supervisor.peaks import memory_of_engines
from xinfer.supervisor.sizing import number


def as_served(deployment: Deployment) -> Deployment:
    """With the longest sequence that the launch allows, in place of what the model was made for.

    That is what was asked for; else no more than the part that a sequence has of a cache whose size was asked for.
    """
    spec, options = deployment.spec, deployment.options
    memory = memory_of_engines(plugins.engines())(deployment.engine)
    longest = number(options, memory.context_options)
    if not longest and (cache := number(options, memory.cache_options)):
        part = cache // (number(options, memory.concurrency_options) or 1)
        longest = min(spec.context_length or part, part)
    if not longest:
        return deployment
    return msgspec.structs.replace(deployment, spec=msgspec.structs.replace(spec, context_length=longest))

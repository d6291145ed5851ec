"""A real engine without weights: repeats what it is told, at a given rate, and fails in every way on request.

For trying a cluster, for measuring what the server itself costs, and for tests of everything that can go wrong.
"""

from xinfer.engines.echo.engine import EchoEngine

ENGINE = EchoEngine

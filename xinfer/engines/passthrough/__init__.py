"""For engines that speak OpenAI themselves: their own HTTP application answers, we carry its bytes."""

from xinfer.engines.passthrough.asgi import AsgiCaller
from xinfer.engines.passthrough.http import Answer, HttpCaller, HttpClient, Origin, check_header
from xinfer.engines.passthrough.paths import PATHS
from xinfer.engines.passthrough.refusals import refusal

__all__ = ["PATHS", "Answer", "AsgiCaller", "HttpCaller", "HttpClient", "Origin", "check_header", "refusal"]

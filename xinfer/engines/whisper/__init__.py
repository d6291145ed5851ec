"""Whisper: speech to text, and to English text, with the model's classes of the transformers library.

===============  =======================================================================================
recordings.py    any file with sound in it as samples, decoded as far as they are needed
marks.py         the vocabulary's marks for tasks, languages and times, and the rules for writing times
segments.py      from what the model wrote about a window to segments, and to where the next window begins
model.py         the encoder once per window, the decoder token by token
listener.py      one recording, window by window, as a transcript
worker.py        the thread in which all recordings take turns
engine.py        requests in, answers out
===============  =======================================================================================
"""

from xinfer.engines.whisper.engine import WhisperEngine

ENGINE = WhisperEngine

__all__ = ["ENGINE", "WhisperEngine"]

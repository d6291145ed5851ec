"""What ``xinfer doctor`` knows: facts of this machine in, findings for people and programs out.

``facts`` are plain data and ``read`` collects them; every other module is pure and turns them into findings.
``golden`` is about the demo models: what to ask them, and whether an answer is right.
"""

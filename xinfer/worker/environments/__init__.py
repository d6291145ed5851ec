"""Python environments for engines, under ``$XINFER_HOME/environments``; why and how: docs/adr/0005.

``plan`` says what an environment holds and ``choice`` which Python a replica runs on (both pure); ``sources`` says
where packages come from; ``store`` looks after what is there; ``build`` makes one, and ``builds`` makes each once for
all replicas that wait for it; ``whole`` finds damaged ones, and ``trial`` what is wrong with a Python that is not ours.
"""

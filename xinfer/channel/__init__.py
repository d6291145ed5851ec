"""The data plane between gateways and replicas: one authenticated connection per (gateway, replica) carries frames.

``wire`` is the format, ``handshake`` proves the cluster token, ``watchdog`` notices silence, ``link`` is the gateway's
side; the replica's side is ``xinfer.replica.server``. Why frames on a plain asyncio stream and not actor messages:
docs/adr/0002.
"""

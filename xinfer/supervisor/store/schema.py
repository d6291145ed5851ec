"""The tables of the supervisor's store. Documents are JSON, so that a new field of a noun needs no migration."""

from sqlalchemy import Boolean, Column, Float, Integer, MetaData, String, Table, Text

SCHEMA_VERSION = 1

metadata = MetaData()

deployments = Table(
    "xinfer_deployments",
    metadata,
    Column("model_uid", String(255), primary_key=True),
    Column("document", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
)
"""What is desired. ``document`` is a Deployment, ``updated_at`` epoch seconds."""

workers = Table(
    "xinfer_workers",
    metadata,
    Column("worker_id", String(255), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("address", String(255), nullable=False),
    Column("last_seen", Float, nullable=False),
)
"""The workers whose replicas may live; a restarted supervisor waits for them."""

cordons = Table(
    "xinfer_cordons",
    metadata,
    Column("worker_id", String(255), primary_key=True),
    Column("device_id", String(255), primary_key=True),
    Column("drain", Boolean, nullable=False),
    Column("since", Float, nullable=False),
)
"""The workers (with an empty device_id) and devices that take nothing new; the columns are the fields of a Cordon."""

peaks = Table(
    "xinfer_peaks",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("document", Text, nullable=False),
    Column("updated_at", Float, nullable=False),
)
"""What replicas were seen to use. ``document`` is a Peak, ``digest`` the SHA-256 of its key, ``updated_at`` epoch
seconds."""

registrations = Table(
    "xinfer_registrations",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("document", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
)
"""Models beside the built-in catalog. ``document`` is a Registration, ``updated_at`` epoch seconds."""

meta = Table(
    "xinfer_meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Integer, nullable=False),
)
"""Numbers: ``schema``, ``epoch`` (starts of the supervisor), ``revision`` (the highest ever given out)."""

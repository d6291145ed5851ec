"""Python SDK: launch and manage models, and a plain chat. For inference use the official ``openai`` client."""

from xinfer.client.answers import (
    ClusterStatus,
    Delta,
    DeviceStatus,
    DeviceVerdict,
    Enforcement,
    Explanation,
    LaunchPlan,
    LaunchProgress,
    Model,
    ModelStatus,
    ReplicaProgress,
    SliceStatus,
    WorkerStatus,
)
from xinfer.client.client import Client
from xinfer.client.connection import Connection, Unreachable

__all__ = [
    "Client",
    "ClusterStatus",
    "Connection",
    "Delta",
    "DeviceStatus",
    "DeviceVerdict",
    "Enforcement",
    "Explanation",
    "LaunchPlan",
    "LaunchProgress",
    "Model",
    "ModelStatus",
    "ReplicaProgress",
    "SliceStatus",
    "Unreachable",
    "WorkerStatus",
]

"""Python SDK: launch and manage models, and a plain chat. For inference use the official ``openai`` client."""

from xinfer.client.answers import (
    ClusterStatus,
    CordonStatus,
    Delta,
    DeviceStatus,
    DeviceVerdict,
    Enforcement,
    EstimateParts,
    Explanation,
    LaunchPlan,
    LaunchProgress,
    Model,
    ModelEstimate,
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
    "CordonStatus",
    "Delta",
    "DeviceStatus",
    "DeviceVerdict",
    "Enforcement",
    "EstimateParts",
    "Explanation",
    "LaunchPlan",
    "LaunchProgress",
    "Model",
    "ModelEstimate",
    "ModelStatus",
    "ReplicaProgress",
    "SliceStatus",
    "Unreachable",
    "WorkerStatus",
]

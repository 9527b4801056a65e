"""The coordinator's tables. Ids are texts that the coordinator makes; nothing here is particular to SQLite."""

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

DATABASE_SCHEMA = 1

METADATA = MetaData()

about = Table("about", METADATA, Column("schema", Integer, primary_key=True, autoincrement=False))

runs = Table(
    "runs",
    METADATA,
    Column("run_id", Text, primary_key=True),
    Column("record", Text, nullable=False),
    Column("is_finished", Boolean, nullable=False, default=False),
)

devices = Table(
    "devices",
    METADATA,
    Column("device_id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("check_in", Text),
)

rounds = Table(
    "rounds",
    METADATA,
    Column("round_id", Text, primary_key=True),
    Column("number", Integer, nullable=False),  # over all runs; the oldest open round is served first
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("round_key", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("num_parameters", Integer, nullable=False),
    Column("opset", Integer, nullable=False),
    Column("minimum_runtime", Text, nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("closes_at", Double, nullable=False),
    Column("status", Text, nullable=False),
    Column("num_open", Integer, nullable=False),
    Column("num_reported", Integer, nullable=False),
    Column("num_assigned", Integer, nullable=False),
    Column("result", Text),
    UniqueConstraint("run_id", "round_key"),
    Index("rounds_by_status", "status", "number"),
    Index("rounds_by_number", "number", unique=True),
)

assignments = Table(
    "assignments",
    METADATA,
    Column("assignment_id", Text, primary_key=True),
    Column("round_id", ForeignKey("rounds.round_id"), nullable=False),
    Column("device_id", ForeignKey("devices.device_id"), nullable=False),
    Column("status", Text, nullable=False),
    Column("ends_at", Double, nullable=False),
    Column("report_sha256", Text),
    Column("report_number", Integer),
    Column("bytes_up", Integer, nullable=False, default=0),
    Column("bytes_down", Integer, nullable=False, default=0),
    UniqueConstraint("round_id", "device_id"),
    Index("assignments_by_device", "device_id", "status"),
    Index("assignments_by_end", "status", "ends_at"),
)

reports = Table(
    "reports",
    METADATA,
    Column("assignment_id", ForeignKey("assignments.assignment_id"), primary_key=True),
    Column("round_id", ForeignKey("rounds.round_id"), nullable=False),
    Column("device_id", ForeignKey("devices.device_id"), nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("round_id", "device_id"),
)

blobs = Table(
    "blobs",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("owner", ForeignKey("devices.device_id")),  # of what a device sent, the one that may read it
    Column("round_id", ForeignKey("rounds.round_id")),
    Column("assignment_id", ForeignKey("assignments.assignment_id")),
    Column("is_deleted", Boolean, nullable=False, default=False),
    Index("blobs_by_sha256", "sha256", "owner"),
    Index("blobs_by_assignment", "assignment_id"),
    Index("blobs_by_round", "round_id"),
)

releases = Table(
    "releases",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("device_id", ForeignKey("devices.device_id"), nullable=False),
    Column("split", Text, nullable=False),
    Column("assignment_id", ForeignKey("assignments.assignment_id"), nullable=False),
    Column("phase", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("sample_rate", Double, nullable=False),
    Column("noise_multiplier", Double, nullable=False),
    Column("num_steps", Integer, nullable=False),
    Column("rdp", Double, nullable=False),  # at the order of the run's budget
    Column("total_rdp", Double, nullable=False),  # of this run, device and split, this row included
    Index("releases_by_device", "run_id", "device_id", "split", "number"),
)

costs = Table(
    "costs",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("phase", Text, nullable=False),
    Column("trial", Integer),
    Column("round_id", ForeignKey("rounds.round_id"), nullable=False),
    Column("device_id", ForeignKey("devices.device_id"), nullable=False),
    Column("assignment_id", ForeignKey("assignments.assignment_id"), nullable=False),
    Column("examples", Integer, nullable=False),
    Column("device_seconds", Double, nullable=False),
    Column("bytes_up", Integer, nullable=False),
    Column("bytes_down", Integer, nullable=False),
    Index("costs_by_run", "run_id"),
)

records = Table(
    "records",
    METADATA,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

"""The tasks of workers: render a shard, score shards, train a filter, write a shard of the curated set.

Each task can be repeated, writes objects that no other task touches, and returns a few bytes. Only tasks that need
torch import torch, which saves seconds and hundreds of megabytes in workers that render.
"""

from synthpipe.build.tasks.curating import CuratedTask, curated_shard, write_curated_shard
from synthpipe.build.tasks.donors import DonorTask, rejectable_donors, write_donors
from synthpipe.build.tasks.job import Job, group_numbers
from synthpipe.build.tasks.rendering import ShardTask, equals_stored, render_shard, sample_recipe
from synthpipe.build.tasks.scoring import ScoreTask, score_shards
from synthpipe.build.tasks.training import NetworkTask, TrainTask, check_network, real_patches, train, training_steps
from synthpipe.build.tasks.worker_state import WorkerState, open_worker_state

__all__ = [
    "CuratedTask",
    "DonorTask",
    "Job",
    "NetworkTask",
    "ScoreTask",
    "ShardTask",
    "TrainTask",
    "WorkerState",
    "check_network",
    "curated_shard",
    "equals_stored",
    "group_numbers",
    "open_worker_state",
    "real_patches",
    "rejectable_donors",
    "render_shard",
    "sample_recipe",
    "score_shards",
    "train",
    "training_steps",
    "write_curated_shard",
    "write_donors",
]

"""What `fairseq-train --user-dir fairseq_plugins` loads: thin adapters over `metro_t0`.

Importing this package registers all tasks, models, criterions and optimizers (every module of these folders is
imported), and installs what `checkpoints`, `hardware` and `optim.half_precision` repair.
"""
# ruff: noqa: E402

import logging
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

# fairseq's task for speech says at every start that a package is missing which nothing here needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from fairseq.models import import_models
from fairseq.tasks import import_tasks

import fairseq_plugins.apex_check
import fairseq_plugins.averaging
import fairseq_plugins.bars
import fairseq_plugins.before_training
import fairseq_plugins.best_metric
import fairseq_plugins.checkpoints
import fairseq_plugins.console
import fairseq_plugins.deferred_checks
import fairseq_plugins.deferred_logs
import fairseq_plugins.divergence
import fairseq_plugins.epochs
import fairseq_plugins.finished
import fairseq_plugins.hardware
import fairseq_plugins.optim.half_precision

# fairseq does the same for a user directory, but not where this package was imported before.
import_tasks(str(Path(__file__).parent / "tasks"), "fairseq_plugins.tasks")
import_models(str(Path(__file__).parent / "models"), "fairseq_plugins.models")
for folder in ("criterions", "optim"):
    for found in iter_modules([str(Path(__file__).parent / folder)]):
        import_module(f"fairseq_plugins.{folder}.{found.name}")
for module in (
    fairseq_plugins.console,
    fairseq_plugins.bars,
    fairseq_plugins.before_training,
    fairseq_plugins.best_metric,
    fairseq_plugins.checkpoints,
    fairseq_plugins.deferred_checks,
    fairseq_plugins.deferred_logs,
    fairseq_plugins.finished,
    fairseq_plugins.divergence,
    fairseq_plugins.averaging,
    fairseq_plugins.epochs,
):
    module.install()
fairseq_plugins.hardware.install()
fairseq_plugins.optim.half_precision.install()

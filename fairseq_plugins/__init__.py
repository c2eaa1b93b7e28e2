"""What `fairseq-train --user-dir fairseq_plugins` loads: thin adapters over `metro_t0`.

Importing this package registers the criterions and optimizers, and all tasks and models (`import_tasks` and
`import_models` import every module of these folders), and installs what `checkpoints`, `hardware` and
`optim.half_precision` mend.
"""

from pathlib import Path

from fairseq.models import import_models
from fairseq.tasks import import_tasks

import fairseq_plugins.averaging
import fairseq_plugins.before_training
import fairseq_plugins.checkpoints
import fairseq_plugins.criterions.metro
import fairseq_plugins.criterions.prompt_cross_entropy
import fairseq_plugins.deferred_logs
import fairseq_plugins.divergence
import fairseq_plugins.epochs
import fairseq_plugins.finished
import fairseq_plugins.hardware
import fairseq_plugins.optim.fused_adamw
import fairseq_plugins.optim.half_precision
import fairseq_plugins.optim.muon
import fairseq_plugins.optim.t5_adafactor

# fairseq does the same for a user directory, but not where this package was imported before.
import_tasks(str(Path(__file__).parent / "tasks"), "fairseq_plugins.tasks")
import_models(str(Path(__file__).parent / "models"), "fairseq_plugins.models")
for module in (
    fairseq_plugins.before_training,
    fairseq_plugins.checkpoints,
    fairseq_plugins.deferred_logs,
    fairseq_plugins.finished,
    fairseq_plugins.divergence,
    fairseq_plugins.averaging,
    fairseq_plugins.epochs,
):
    module.install()
fairseq_plugins.hardware.install()
fairseq_plugins.optim.half_precision.install()

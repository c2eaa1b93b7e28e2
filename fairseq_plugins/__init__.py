"""What `fairseq-train --user-dir fairseq_plugins` loads: thin adapters over `metro_t0`.

Importing this package registers the tasks, models, criterions and optimizers and installs the checks of
`fairseq_plugins.checkpoints`. fairseq imports every module below tasks/ and models/ itself.
"""

import fairseq_plugins.checkpoints
import fairseq_plugins.criterions.metro
import fairseq_plugins.criterions.prompt_cross_entropy
import fairseq_plugins.hardware
import fairseq_plugins.optim.fused_adamw
import fairseq_plugins.optim.t5_adafactor

fairseq_plugins.checkpoints.install()
fairseq_plugins.hardware.install()

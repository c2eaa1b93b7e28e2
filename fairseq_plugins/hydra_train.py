"""`fairseq-hydra-train` for configs that build on others; started by `metro-t0-train`.

fairseq registers its default values under the name of the config on the command line, which makes hydra merge them just
below that one file: over everything that the file builds on. Here they have a name of their own, `DEFAULTS`, which
stands first in the defaults list.
"""

import logging

from fairseq.dataclass.initialize import hydra_init
from fairseq_cli.hydra_train import hydra_main

from metro_t0.launch import DEFAULTS


def main() -> None:
    """Train as the command line says."""
    # hydra's main and fairseq's both import the user directory; the second says so.
    logging.getLogger("fairseq.utils").addFilter(lambda record: "already been imported" not in record.getMessage())
    hydra_init(DEFAULTS)
    hydra_main()


if __name__ == "__main__":
    main()

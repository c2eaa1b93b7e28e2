"""`metro-t0-train`: fairseq's own `fairseq-hydra-train`, told where this project's plugin and configs are installed.

Configs that build on others begin with `/fairseq_defaults@_global_`: fairseq itself puts its default values under the
file that was named on the command line, but over those that this file builds on.

The process becomes fairseq's (`exec`), so signals, exit status and torchrun's environment reach it unchanged.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from metro_t0.command import Command, Program
from metro_t0.errors import UserError, nearest
from metro_t0.options import option
from metro_t0.progress import is_quiet

if TYPE_CHECKING:
    from omegaconf import DictConfig

PLUGIN = "fairseq_plugins"
DEFAULTS = "fairseq_defaults"
"""Where a config's defaults list has this name, fairseq's default values go; see `fairseq_plugins.hydra_train`."""
GROUPS = ("pretraining", "finetuning", "synthetic")
QUIET = "common.log_format=none"
"""No lines about progress; the log file of the run has its records all the same."""


class Train(Command):
    """Train with a shipped or an own config, from any folder: fairseq-hydra-train with this project's plugin.

    examples:
      metro-t0-train --list
      metro-t0-train metro_t5_base task.data=data-bin optimization.max_update=1000
      metro-t0-train finetuning/base task.data=prompted checkpoint.finetune_from_model=PRETRAINED/checkpoint_last.pt
      metro-t0-train mine.yaml                       # an own file; it may build on a shipped one (docs/pretraining.md)
      metro-t0-train metro_t5_base task.data=data-bin --cfg job        # print the composed config, train nothing
      torchrun --nproc_per_node 8 "$(command -v metro-t0-train)" metro_t5_base task.data=data-bin \\
          distributed_training.distributed_world_size=8
      fairseq-train data-bin --user-dir "$(metro-t0-train --print-user-dir)" --task metro_pretraining ...
    """

    name: ClassVar[str] = "train"
    list: bool = option(False, "print the shipped configs and exit")
    print_user_dir: bool = option(False, "print the path for fairseq's --user-dir (common.user_dir)")
    print_config_dir: bool = option(False, "print the folder of the shipped configs")
    config: str | None = option(
        None, "name of a shipped config, or an own .yaml file", positional=True, metavar="CONFIG",
        complete=lambda **_: [*shipped_configs()],
    )  # fmt: skip
    overrides: tuple[str, ...] = option(
        (), "KEY=VALUE, and hydra's own options", positional=True, metavar="OVERRIDE", rest=True
    )

    def run(self) -> None:
        if sum((self.list, self.print_user_dir, self.print_config_dir, self.config is not None)) != 1:
            raise UserError("name a config, or give one of --list, --print-user-dir and --print-config-dir")
        if self.list:
            for name, about in shipped_configs().items():
                print(f"{name:36} {about}")
        elif self.config is None:
            print(plugin_directory() if self.print_user_dir else config_directory())
        else:
            # After the config, argparse leaves every argument to the overrides.
            overrides = [part for part in self.overrides if part not in ("-q", "--quiet")]
            quiet = [QUIET] if is_quiet() or len(overrides) < len(self.overrides) else []
            command = train_command(self.config, [*quiet, *overrides])
            sys.stdout.flush()
            os.execv(command[0], command)


main = Program("metro-t0-train", Train.about, (Train,), one=True)


def plugin_directory() -> Path:
    """The installed plugin: what fairseq's `--user-dir` takes. It is found without importing it."""
    spec = find_spec(PLUGIN)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {PLUGIN} is not installed beside metro_t0; install metro-t0 again")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def config_directory() -> Path:
    """The folder of the shipped hydra configs, in groups."""
    return plugin_directory() / "configs"


def shipped_configs() -> dict[str, str]:
    """group/name -> first comment line, of every config that can be trained."""
    paths = [path for group in GROUPS for path in sorted((config_directory() / group).glob("*.yaml"))]
    return {f"{path.parent.name}/{path.stem}": _title(path) for path in paths if not path.stem.startswith("_")}


def _title(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def train_command(config: str, overrides: Sequence[str]) -> list[str]:
    """The command line of fairseq-hydra-train for a config and overrides. Raises `UserError` where it cannot run."""
    for module in ("fairseq", "hydra"):
        if find_spec(module) is None:
            raise UserError(f"{module} is not installed; training needs it (docs/install.md says how)")
    directory, name = find_config(config)
    composed = compose_config(directory, name)
    if not any(override.startswith("-") for override in overrides):  # with hydra's own, such as --cfg, none is missing
        check_required(name, composed, overrides)
    main_module = f"{PLUGIN}.hydra_train" if DEFAULTS in composed else "fairseq_cli.hydra_train"
    return [
        # -P: the user's folder is not searched for modules, so a folder named like an installed package is harmless.
        sys.executable, "-P", "-m", main_module, "--config-dir", str(directory), "--config-name", name,
        _search_path(), f"common.user_dir={_quoted(str(plugin_directory()))}", *overrides,
    ]  # fmt: skip


def find_config(config: str) -> tuple[Path, str]:
    """(folder, name) of an own .yaml file, of group/name, or of a name that one group alone has."""
    if config.endswith((".yaml", ".yml")):
        path = Path(config).resolve()
        if not path.is_file():
            raise UserError(f"{config}: no such file")
        if path.suffix != ".yaml":
            raise UserError(f"{config}: call it {path.stem}.yaml; hydra reads no other ending")
        return path.parent, path.stem
    names = list(shipped_configs())
    found = [name for name in names if config in (name, name.partition("/")[2])]
    if len(found) == 1:
        group, _, stem = found[0].partition("/")
        return config_directory() / group, stem
    if found:
        raise UserError(f"config {config!r} is in several groups; say which: {', '.join(found)}")
    near = nearest(config.rpartition("/")[2], {name.partition("/")[2] for name in names})
    raise UserError(f"no shipped config {config!r}{near or '; metro-t0-train --list shows them'}")


def compose_config(directory: Path, name: str) -> DictConfig:
    """A config with all that it builds on, without fairseq's default values: the key `DEFAULTS` says where those go.

    Raises `UserError` where it is no config, or builds on one that is not there.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name=DEFAULTS, node={DEFAULTS: True})
    try:
        with initialize_config_dir(str(directory), version_base="1.1"):
            config: DictConfig = compose(name, overrides=[_search_path()])
            return config
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{directory / name}.yaml: {' '.join(str(error).split())}") from None


def check_required(name: str, composed: DictConfig, overrides: Sequence[str]) -> None:
    """Raise `UserError` for a value that the config leaves to the user (???) and no override sets."""
    from omegaconf import OmegaConf

    set_here = {override.lstrip("+").partition("=")[0] for override in overrides}
    for key in sorted(OmegaConf.missing_keys(composed) - set_here):
        raise UserError(f"{key} must be given, for example: metro-t0-train {name} {key}=...")


def _search_path() -> str:
    """Own configs may name shipped ones in their defaults list."""
    return f"hydra.searchpath=[{_quoted(f'file://{config_directory()}')}]"


def _quoted(path: str) -> str:
    """A path in the quotes of hydra's grammar of overrides: outside of them, brackets and commas mean something."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), path)
    return f"'{escaped}'"


if __name__ == "__main__":
    raise SystemExit(main())

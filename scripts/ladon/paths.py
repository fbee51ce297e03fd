"""Where a run writes: one folder and one log file per experiment, derived from its config's path.

`configs/coco2017/ladon/x.yaml` logs to `logs/coco2017/ladon/x.txt` and keeps everything else in
`logs/coco2017/ladon/x/`; `legacy/configs/…` in the same way to `logs/legacy/…`; `--run_log` moves
both. Imports nothing heavy.
"""

from __future__ import annotations

import re
from pathlib import Path

LOG_ROOT = Path("logs")
METRICS_FILE = "metrics.json"
"""A run's result, in its folder."""
RUN_MARKERS = ("run.json", "metrics.jsonl")
"""Files that a run writes into its folder from its start on."""


def run_folder(config_path: str | Path, run_log: str | Path | None = None) -> Path:
    """Return the folder of a run: config.yaml, run.json, metrics.jsonl, metrics.json, checkpoints.

    Args:
        config_path: the run's YAML file; the part up to its last `configs` folder is dropped.
        run_log: the value of `--run_log`: a log file, or the folder itself.
    """
    if run_log:
        path = Path(run_log)
        return path.with_suffix("") if _is_log_file(run_log) else path
    return LOG_ROOT / _experiment(Path(config_path))


def run_log_path(config_path: str | Path, run_log: str | Path | None = None) -> Path:
    """Return the log file: `--run_log` itself, `log.txt` in it if it is a folder, or the default.

    Args:
        config_path: the run's YAML file.
        run_log: the value of `--run_log`.
    """
    folder = run_folder(config_path, run_log)
    if run_log:
        return Path(run_log) if _is_log_file(run_log) else folder / "log.txt"
    return folder.with_name(folder.name + ".txt")


def _experiment(config: Path) -> Path:
    parts = config.parts
    if "configs" in parts[:-1]:
        after_configs = len(parts) - parts[::-1].index("configs")
        is_legacy = parts[: after_configs - 1][-1:] == ("legacy",)
        config = Path(*["legacy"] * is_legacy, *parts[after_configs:])
    else:
        config = Path(config.name)
    # not `with_suffix` alone: it would cut `beta0.32` short
    return config.with_suffix("") if config.suffix in {".yaml", ".yml"} else config


def _is_log_file(run_log: str | Path) -> bool:
    """Tell `x.txt` and `x.log` from `x/`, `x` and `x-beta0.32`, whose dot is a number's."""
    if str(run_log).endswith("/"):
        return False
    return re.fullmatch(r"\.[A-Za-z]\w*", Path(run_log).suffix) is not None

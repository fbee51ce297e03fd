"""Config files: torchdistill's YAML with `_base_` files, `${...}` references and overrides.

    config = load_config("configs/x.yaml", assignments=["beta=1.28"])
    check_config(config)
    config.import_dependencies()
    datasets = config.build(config.section("datasets"))

Loading imports and builds nothing. `validate_config` imports libraries and binds signatures, but
builds nothing. `Config.build` builds each tagged node once, when it is first used.
"""

from ladon.config.core.aliases import resolve_name
from ladon.config.core.config import Config
from ladon.config.core.nodes import LazyCall
from ladon.config.loader import find_config_files, load_config
from ladon.config.validate.whole_config import Problem, check_config, format_report, validate_config

__all__ = [
    "Config",
    "LazyCall",
    "Problem",
    "check_config",
    "find_config_files",
    "format_report",
    "load_config",
    "resolve_name",
    "validate_config",
]

"""Models: building them from config sections, and reading and writing their checkpoints."""

from ladon.bottlenecks import (
    entropy_coding,
    find_bottleneck,
    forget_tables,
    is_updated,
    update_bottleneck,
    use_own_noise,
)
from ladon.models.build import build_model, class_layers, freeze_batch_norm, start_from
from ladon.models.checkpoint import (
    Checkpoint,
    check_writable,
    load_into,
    noting_files,
    read_checkpoint,
    write_checkpoint,
)
from ladon.models.library import has_pretrained_weights

__all__ = [
    "Checkpoint",
    "build_model",
    "check_writable",
    "class_layers",
    "entropy_coding",
    "find_bottleneck",
    "forget_tables",
    "freeze_batch_norm",
    "has_pretrained_weights",
    "is_updated",
    "load_into",
    "noting_files",
    "read_checkpoint",
    "start_from",
    "update_bottleneck",
    "use_own_noise",
    "write_checkpoint",
]

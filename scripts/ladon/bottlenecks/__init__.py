"""Bottlenecks: encoder, payload, decoder. A kind is a file, which registers itself.

To add one, write a module like this, and name it under a config's `dependencies`:

    from ladon.bottlenecks import Bottleneck, Coder, register
    from ladon.codec import LatentCoder, quantize

    @register
    class ThinBottleneck(Bottleneck):                     # the config's bottleneck_config.key

        def __init__(self, channels: int = 8) -> None:    # its kwargs
            super().__init__(channels)                    # makes self.entropy_bottleneck
            self.encoder = nn.Conv2d(3, channels, 8, stride=8)
            self.decoder = nn.ConvTranspose2d(channels, 64, 2, stride=2)

        @property
        def analysis(self):     # images to latent; sender, pinned: float32, one image at a time
            return self.encoder

        @property
        def synthesis(self):    # quantised latent to features; may be bf16, folded, compiled
            return self.decoder

        def noisy(self, latent):             # what is decoded while the rate is learnt
            return self.entropy_bottleneck(latent)[0]

        def quantized(self, latent, apply):  # what is decoded later; needs no tables
            return quantize(latent, self.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1))

        def coder(self, apply):              # latents to payloads and back
            return ThinCoder(LatentCoder(self.entropy_bottleneck))

`Coder` says what a coder has to do; `factorized.py` is the shortest one. Where payloads depend on
more than the encoder, list it all in `transforms` and run it by `apply`, as `hyperprior.py` does;
where they have several parts, name these in `parts`: sizes are recorded for each. Everything else
is done for every kind: noise from the run's generator, the quantiles' auxiliary loss, tables that
are checked, sent to all processes and loaded whatever their size, the modes of evaluation, and the
sizes as published.

A bottleneck that is registered with sc2bench and does not follow this protocol is trained and
tested all the same: it codes by itself, and its data sizes are not recorded.
"""

from ladon.bottlenecks import (  # noqa: F401  (register themselves)
    factorized,
    hyperprior,
    rate_loss,
    variable_rate,
)
from ladon.bottlenecks.base import Bottleneck, directly, register
from ladon.bottlenecks.coding import Apply, Coder, Coding, decode_latent
from ladon.bottlenecks.identity import encoder_id
from ladon.bottlenecks.of_model import (
    at_level,
    auxiliary_loss,
    encode_once,
    entropy_coding,
    find_bottleneck,
    forget_tables,
    is_updated,
    known_bottleneck,
    levels_of,
    rate_of,
    set_updated,
    update_bottleneck,
    use_own_noise,
)
from ladon.bottlenecks.payloads import PayloadSizes, published_size
from ladon.bottlenecks.shapes import PayloadShapes

__all__ = [
    "Apply",
    "Bottleneck",
    "Coder",
    "Coding",
    "PayloadShapes",
    "PayloadSizes",
    "at_level",
    "auxiliary_loss",
    "decode_latent",
    "directly",
    "encode_once",
    "encoder_id",
    "entropy_coding",
    "find_bottleneck",
    "forget_tables",
    "is_updated",
    "known_bottleneck",
    "levels_of",
    "published_size",
    "rate_of",
    "register",
    "set_updated",
    "update_bottleneck",
    "use_own_noise",
]

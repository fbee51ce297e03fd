"""The device's half without PyTorch: what is here needs numpy, Pillow and onnxruntime only.

`ladon export edge` copies these modules into the folder that goes to the device.

    from ladon.edge import Client, EdgeEncoder

    payload = EdgeEncoder("edge/").encode("photo.jpg")
    answers = Client("http://server:8000").answer(payload).answers
"""

from typing import TYPE_CHECKING

from ladon.lazy import lazy_names

if TYPE_CHECKING:
    from ladon.edge.client import Client
    from ladon.edge.encoder import EdgeEncoder

__all__ = ["Client", "EdgeEncoder"]

__getattr__ = lazy_names(__name__, Client="ladon.edge.client", EdgeEncoder="ladon.edge.encoder")

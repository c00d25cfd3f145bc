"""Writes golden_i3d.npz: logits of pytorch-i3d's network with random weights, at an eighth of its width.

  PYTHONPATH=. python tests/evaluation/networks/make_golden_i3d.py CHECKOUT [--full]

CHECKOUT: a folder of piergiaj/pytorch-i3d (commit 05783d1), whose pytorch_i3d.py is imported. Made with torch 2.14.1.
`--full` writes nothing here: it saves full_i3d.pt, a whole network, and full_i3d.npz, a video and its logits, into the
current folder, for a comparison by hand.
"""

from pathlib import Path
import sys

import numpy as np
import torch

from tests.evaluation.networks.random_weights import draw, pixels

HERE = Path(__file__).parent
CLIPS = ((2, 9, 224, 224, 3), (1, 18, 224, 224, 3))
SEED = 5


def reference(i3d, divisor: int) -> torch.nn.Module:
  """The authors' own network, whose convolutions are made narrower, with random weights."""
  plain = i3d.Unit3D.__init__

  def narrow(self, in_channels, output_channels, *, name, **options):
    plain(self, in_channels if in_channels == 3 else in_channels // divisor,
          output_channels if name == "logits" else output_channels // divisor, name=name, **options)

  i3d.Unit3D.__init__ = narrow
  network = i3d.InceptionI3d(400).eval()
  shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()
            if not name.endswith("num_batches_tracked")}
  network.load_state_dict({name: torch.from_numpy(value) for name, value in draw(shapes, SEED).items()}, strict=False)
  return network


def logits(network, videos):
  with torch.inference_mode():
    return network(torch.from_numpy(videos.transpose(0, 4, 1, 2, 3).copy())).mean(-1).numpy()


def main(checkout: str, full: bool) -> None:
  sys.path.insert(0, checkout)
  import pytorch_i3d
  if full:
    network, videos = reference(pytorch_i3d, 1), pixels((1, 16, 224, 224, 3), SEED)
    torch.save(network.state_dict(), "full_i3d.pt")
    np.savez("full_i3d.npz", videos=videos, logits=logits(network, videos))
  else:
    network = reference(pytorch_i3d, 8)
    np.savez(HERE / "golden_i3d.npz", seed=SEED,
             **{"x".join(map(str, size)): logits(network, pixels(size, SEED)) for size in CLIPS})


if __name__ == "__main__":
  main(sys.argv[1], "--full" in sys.argv)

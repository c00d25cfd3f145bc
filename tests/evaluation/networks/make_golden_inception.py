"""Writes golden_inception.npz: features of pytorch-fid's network with random weights, at an eighth of its width.

  PYTHONPATH=. python tests/evaluation/networks/make_golden_inception.py [--full]      # needs torch and pytorch-fid

Made with pytorch-fid 0.3.0, torchvision 0.29.1, torch 2.14.1. `--full` writes nothing here: it saves full.pth, a whole
network, and full.npz, images and their features, into the current folder, for a comparison by hand.
"""

from pathlib import Path
import sys

import numpy as np
import pytorch_fid.inception
import torch
import torchvision

from tests.evaluation.networks.random_weights import draw, pixels

HERE = Path(__file__).parent
SIZES = ((2, 75, 92, 3), (1, 129, 110, 3))
SEED = 3


def reference(divisor: int) -> tuple[torch.nn.Module, dict]:
  """pytorch-fid's own network, whose convolutions are made narrower, with random weights; and its state dict."""
  plain = torchvision.models.inception.BasicConv2d

  def narrow(inputs, outputs, **options):
    return plain(inputs if inputs == 3 else inputs // divisor, outputs // divisor, **options)

  class Inception(torchvision.models.inception.Inception3):
    def load_state_dict(self, state):
      shapes = {name: tuple(value.shape) for name, value in self.state_dict().items()
                if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}
      state.update((name, torch.from_numpy(value)) for name, value in draw(shapes, SEED).items())
      super().load_state_dict(state, strict=False)

  state = {}
  torchvision.models.inception.BasicConv2d = narrow
  torchvision.models.inception.Inception3 = Inception
  pytorch_fid.inception.load_state_dict_from_url = lambda *args, **options: state
  network = pytorch_fid.inception.InceptionV3(resize_input=False, normalize_input=False).eval()
  return network, state


def features(network, images):
  with torch.no_grad():
    return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))[0][:, :, 0, 0].numpy()


def main(full: bool) -> None:
  if full:
    network, state = reference(1)
    torch.save({**state, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, "full.pth")
    images = pixels((2, 299, 299, 3), SEED)
    np.savez("full.npz", images=images, features=features(network, images))
  else:
    network, _ = reference(8)
    np.savez(HERE / "golden_inception.npz", seed=SEED,
             **{"x".join(map(str, size)): features(network, pixels(size, SEED)) for size in SIZES})


if __name__ == "__main__":
  main("--full" in sys.argv)

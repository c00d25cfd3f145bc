"""Makes golden_lpips.npz: distances that the authors' package computes with random weights.

  PYTHONPATH=. python tests/evaluation/networks/make_golden_lpips.py      # needs torch, torchvision and lpips

Made with torch 2.14.1, torchvision 0.29.1 and lpips 0.1.4, whose own modules compute everything, at their full size.
"""

from pathlib import Path
import sys

import lpips
import numpy as np
import torch

from tests.evaluation.networks.random_weights import draw, pixels

SIZE = (35, 48)
SEED = 0


def reference(backbone: str) -> lpips.LPIPS:
  """The package's module with random weights."""
  model = lpips.LPIPS(pretrained=False, pnet_rand=True, net=backbone, verbose=False)
  weights = draw({name: tuple(parameter.shape) for name, parameter in model.named_parameters()}, SEED)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(torch.from_numpy(weights[name]))
  return model


def main(folder: Path) -> None:
  """Writes the file into `folder`."""
  a, b = (torch.from_numpy(pixels((3, *SIZE, 3), seed).transpose(0, 3, 1, 2).copy()) for seed in (1, 2))
  with torch.inference_mode():
    distances = {backbone: reference(backbone)(a, b)[:, 0, 0, 0].numpy() for backbone in ("alex", "vgg")}
  print(distances)
  np.savez(folder / "golden_lpips.npz", **distances)


if __name__ == "__main__":
  main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))

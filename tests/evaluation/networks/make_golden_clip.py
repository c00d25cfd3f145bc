"""Makes golden_clip.npz: features that transformers' CLIPModel computes with random weights.

  PYTHONPATH=. python tests/evaluation/networks/make_golden_clip.py       # needs torch and transformers

Made with torch 2.14.1 and transformers 5.24.0.
"""

from pathlib import Path
import sys

import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from tests.evaluation.networks.clip_configs import CONFIGS, ids
from tests.evaluation.networks.random_weights import draw, pixels

SEED = 0


def reference(config: dict) -> CLIPModel:
  """A model of a config.json with random weights."""
  model = CLIPModel(CLIPConfig(**config)).eval()
  weights = draw({name: tuple(parameter.shape) for name, parameter in model.named_parameters()
                  if name != "logit_scale"}, SEED)
  with torch.no_grad():
    for name, values in weights.items():
      model.get_parameter(name).copy_(torch.from_numpy(values))
  return model


def main(folder: Path) -> None:
  """Writes the file into `folder`."""
  outputs = {}
  for name, config in CONFIGS.items():
    size = config["vision_config"]["image_size"]
    images = (pixels((3, size, size, 3), 1) + 1) / 2
    prepared = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_rescale=False)(
        list(images), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
      out = reference(config)(input_ids=torch.from_numpy(ids(name)).long(), pixel_values=prepared)
    outputs |= {f"{name}_images": out.image_embeds.numpy(), f"{name}_texts": out.text_embeds.numpy()}
  np.savez(folder / "golden_clip.npz", **outputs)


if __name__ == "__main__":
  main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))

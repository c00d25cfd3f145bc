"""Where optional material beside the checkout lies; tests that need it skip when it is absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
REAL = SHARED / "data" / "real"
PARITY = SHARED / "parity"
GOLDEN = Path(__file__).parent / "golden"                          # small, and part of this repository

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real 360° clips are not beside this checkout")
needs_parity = pytest.mark.skipif(not PARITY.is_dir(), reason="the parity fixtures are not beside this checkout")

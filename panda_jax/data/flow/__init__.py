"""Motion conditions: the optical flow of panoramas, and the colours in which the 360-Adapter reads it.

  estimating.py  Flow, DISFlow: flow from frames; make_flow finds an estimator by name, also your own network
  films.py       estimated: the motion of some frames of a film, run by run
  colours.py     encode_flow, decode_flow, flip_flow: flow <-> the colours that the adapter was trained on
  drawing.py     draw_motion: turns, travel and regions that are described instead of filmed

Flow is float32 [f H W 2] in pixels per frame, to the right and down; colours are uint8 [f H W 3].
"""

from panda_jax.data.flow.colours import UNITS, decode_flow, encode_flow, flip_flow
from panda_jax.data.flow.drawing import Drift, Forward, Motion, Region, Turn, draw_motion
from panda_jax.data.flow.estimating import ESTIMATORS, DISFlow, Flow, FlowError, describe_flow, estimate, make_flow

__all__ = ["ESTIMATORS", "UNITS", "DISFlow", "Drift", "Flow", "FlowError", "Forward", "Motion", "Region", "Turn",
           "decode_flow", "describe_flow", "draw_motion", "encode_flow", "estimate", "flip_flow", "make_flow"]

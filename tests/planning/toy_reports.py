"""Reports that nobody compiled."""

GIB = 2**30


def report(name="step 8x6", needed=10 * GIB, limit=16 * GIB, **changes):
  """A report as `panda_jax.planning.measure` makes it; it fits if what it needs is below the limit."""
  found = {"name": name, "program": "step", "shape": [8, 6], "clips": 4, "state": GIB, "denoising_steps": None,
           "mesh": {"data": 2, "fsdp": 2, "context": 1}, "made": "2026-11-20 19:00",
           "compiling": {"trace": 1.0, "compile": 60.0, "host": 2 * GIB}, "fits": needed < limit, "reason": "",
           "memory": {"limit": limit, "needed": needed},
           "flops": {"attention": 10**12, "total": 10**12, "model": 10**12, "kernels": 0}}
  if found["fits"]:
    found["memory"] |= {"arguments": GIB, "outputs": GIB, "aliased": GIB, "temporaries": 9 * GIB, "program": 0,
                        "peak": 9 * GIB, "host": 0}
    found["flops"]["xla"] = 1e12
    found |= {"bytes_accessed": 1e9, "cycles": 10**9, "roofline": 0.5, "unknown_loops": 0,
              "seconds": {"compiler": 1.0, "kernels": 0.0, "ici": 0.1, "dcn": 0.0, "at_peak": 0.5},
              "mfu": {"hidden": 0.5, "exposed": 0.45},
              "collectives": [{"kind": "all-gather", "network": "ici", "count": 12, "bytes": 3 * 10**9}],
              "buffers": [{"bytes": GIB, "shape": "f32[8,4096]", "layer": "jit(step)/unet/down/conv", "count": 2}]}
  else:
    found["reason"] = "RESOURCE_EXHAUSTED: too much"
  return found | changes

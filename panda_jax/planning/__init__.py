"""`panda plan`: what a program needs of each chip of a TPU topology, by compiling it for one that nobody has.

`plan` asks for one report per program; each is made in a process of its own (`worker`) and kept (`store`). A report is
a dict of plain values. Per chip, and bytes, seconds and FLOPs throughout:

  name, program, shape, clips, mesh    what was compiled: program is step, sample or decode; shape (views, frames);
                                       clips on all chips together; mesh axis -> size
  fits, reason                         whether the compiler can place it; if not, what it says
  state                                of a step: parameters, their average, the optimizer's state
  denoising_steps                      of the sampler: all figures are of all of them
  memory       limit, needed           what the compiler has to give, and what it plans to use, that is, the sum of
               arguments, outputs less aliased, temporaries, program
               peak, host              in use at the worst moment, as it plans; in the host's memory
  flops        attention, linear, convolution    counted from shapes, see panda_jax.parallel.flops
               total, model            with and without what is computed a second time to save memory
               kernels, xla            those inside Pallas kernels; XLA's own count, loop bodies once
  bytes_accessed                       XLA's own count
  collectives  [kind, network, count, bytes]     see panda_jax.parallel.program_text
  buffers      [bytes, shape, layer, count]      the largest arrays
  effort                               of the compiler, see panda_jax.planning.measure
  seconds      roofline                the compiler's own: for each operation its FLOPs or its bytes at the chip's rate,
                                       whichever takes longer; loop bodies once (of a sampler: about one step)
               compiler                at full effort: the cost model's cycles; at quick effort the roofline, of a
                                       sampler times its steps. Both leave out collectives and Pallas kernels
               kernels                 FLOPs of Pallas kernels at the chip's peak: the least that they can take
               ici, dcn                bytes of collectives over the bandwidth of all links together: the least
               at_peak                 total FLOPs at the chip's peak
  mfu          hidden, exposed         estimates from the above: if collectives cost no time, and if nothing else runs
                                       meanwhile
  unknown_loops                        loops that the estimate counts once, because their length is not in the text
  compiling    trace, compile, host    seconds, seconds, and the most memory that this machine needed
  made                                 when

Where a program does not fit, all that comes from the compiled program is absent.
"""

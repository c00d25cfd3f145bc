import jax
import jax.numpy as jnp
import pytest

from panda_jax.training.programs import Programs


def compiled(sizes=(3, 4), say=lambda text: None):
  programs = Programs()
  for size in sizes:
    batch = {"x": jax.ShapeDtypeStruct((size, 8), jnp.float32)}
    step = jax.jit(lambda state, batch: (state + 1, jax.checkpoint(jnp.sin)(batch["x"] @ batch["x"].T).sum()))
    programs.add("step", batch, f"the step of {size}", step.trace(jnp.int32(0), batch), images=size)
  programs.compile(say, alone=True)
  return programs


def test_every_shape_has_a_program_of_its_own_which_knows_what_it_does():
  """Images, and two FLOPs for each multiplication of a product."""
  lines = []
  programs = compiled(say=lines.append)
  for size in (3, 4):
    batch = {"x": jnp.ones((size, 8))}
    program = programs.find("step", batch)
    state, results = program(jnp.int32(1), batch)
    assert int(state) == 2 and results.shape == ()
    assert program.images == size and program.flops == 2 * 8 * size**2
  assert [line.split(" in ")[0] for line in lines if line.startswith("compiled the")] == [
      "compiled the step of 3", "compiled the step of 4"]


def test_what_remat_computes_again_is_no_model_flop():
  def loss(w, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w))

  def flops(function):
    programs, batch = Programs(), {"x": jax.ShapeDtypeStruct((2, 8), jnp.float32)}
    programs.add("step", batch, "the step", jax.jit(lambda w, batch: jax.grad(function)(w, batch["x"])).trace(
        jax.ShapeDtypeStruct((8, 8), jnp.float32), batch))
    programs.compile(lambda text: None, alone=True)
    return programs.find("step", batch).flops

  assert flops(jax.checkpoint(loss)) == flops(loss) == 2 * 2 * 8 * 8 * 5        # two forward, three backward


def test_a_batch_without_a_program_is_refused_with_its_shape():
  with pytest.raises(ValueError, match=r"no step was compiled for \(x \[5, 8\] float32\)"):
    compiled().find("step", {"x": jnp.ones((5, 8))})


def test_a_program_is_never_compiled_again_for_other_arguments():
  """Another state than the one it was made for is an error, and not a wait of minutes."""
  batch = {"x": jnp.ones((3, 8))}
  program = compiled().find("step", batch)
  with pytest.raises(TypeError, match="differ from the types for which this computation was compiled"):
    program(jnp.float32(1), batch)


def test_where_programs_are_kept_is_said_once(tmp_path):
  before, lines = jax.config.jax_compilation_cache_dir, []
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  try:
    compiled(say=lines.append)
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
  assert [line for line in lines if str(tmp_path) in line] == [f"compiled programs are kept in {tmp_path}"]

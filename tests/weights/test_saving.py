"""What is saved is what was loaded, to the bit, here and in diffusers; and nothing of the user's is lost on the way."""

import dataclasses
import functools
import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from panda_jax import weights
from panda_jax.errors import InputError
from panda_jax.weights.resolve import resolve
from panda_jax.weights.saving import save
from tests.weights.archives import Archive, StateDict
from tests.weights.networks import (
    ADAPTER, CONFIGS, MOTION, SETTINGS, UNET, assert_close, assert_equal, folder_of, motion_of, original_motion_names,
    pipeline_of, run, run_unet, tensors, write, write_json)

ALL = ("unet", "vae", "text_encoder")
VARIANTS = {**CONFIGS, "motion": MOTION, "sd2": dataclasses.replace(UNET, heads=(1, 2), linear_projection=True)}


def kind_of(name):
  return name if name in CONFIGS else "unet"


@functools.cache
def loaded(root, name):
  """A network out of a file of somebody else's."""
  kind, config = kind_of(name), VARIANTS[name]
  if kind == "adapter360":
    return weights.load(write(root / name / "360Adapter.safetensors", tensors(kind)))
  return weights.load(folder_of(root / name, kind, config))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tmp_path_factory.mktemp("networks")


# --- there and back


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_survives_our_format(root, tmp_path, name):
  save(tmp_path / "model", loaded(root, name))
  assert_equal(weights.load(tmp_path / "model"), loaded(root, name))
  assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "adapter360"])
def test_every_network_survives_the_format_of_diffusers(root, tmp_path, name):
  """Tensor for tensor what the file held, tables of positions included."""
  save(tmp_path / "model", loaded(root, name), format="diffusers")
  assert_equal(weights.load(tmp_path / "model"), loaded(root, name))
  (theirs,), (ours,) = ((root / name).glob("*.safetensors"), (tmp_path / "model").glob("*.safetensors"))
  assert ours.name == theirs.name
  written, given = load_file(ours), load_file(theirs)
  np.testing.assert_equal({key.removeprefix("text_model."): value for key, value in written.items()}, given)
  assert json.loads((tmp_path / "model" / "config.json").read_text()) == SETTINGS[kind_of(name)](VARIANTS[name])


@pytest.mark.parametrize("format", ["panda", "diffusers"])
def test_a_pipeline_survives(tmp_path, format):
  networks = weights.load(pipeline_of(tmp_path / "given", *ALL))
  save(tmp_path / "model", networks, format=format)
  again = weights.load(tmp_path / "model")
  assert again.keys() == networks.keys()
  for kind in networks:
    assert_equal(again[kind], networks[kind])
    assert_equal(weights.load(tmp_path / "model", wanted=kind), networks[kind])


@pytest.mark.parametrize("format", ["panda", "diffusers"])
def test_the_norms_of_animatediff_survive(tmp_path, format):
  """Though diffusers computes others: its own come with its own files."""
  config = dataclasses.replace(MOTION, block_out_channels=(32, 64), norm_groups=16, max_frames=24, motion_mid=False)
  image = {name: value for name, value in tensors("unet", config).items() if "motion_modules" not in name}
  base = folder_of(tmp_path / "base", "unet", dataclasses.replace(config, temporal=False), image)
  motion = write(tmp_path / "mm.safetensors", original_motion_names(motion_of(config)))
  network = weights.load(base, motion=motion)
  assert (network.config.resnet_norm, network.config.motion_norm) == ("cross_frame", "per_frame")
  save(tmp_path / "model", network, format=format)
  assert_equal(weights.load(tmp_path / "model"), network)


def test_files_are_converted_without_being_loaded(tmp_path):
  """With the types they have: half precision stays so."""
  half = {name: value.astype(np.float16) for name, value in tensors("unet").items()}
  folder_of(tmp_path / "given", "unet", arrays=half)
  save(tmp_path / "model", resolve(tmp_path / "given"))
  save(tmp_path / "back", resolve(tmp_path / "model"), format="diffusers")
  np.testing.assert_equal(load_file(tmp_path / "back" / "diffusion_pytorch_model.safetensors"), half)
  assert_equal(weights.load(tmp_path / "model"), weights.load(tmp_path / "given"))


@pytest.mark.parametrize("format", ["panda", "diffusers"])
@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, "bfloat16"])
def test_types_can_be_changed(root, tmp_path, format, dtype):
  save(tmp_path / "model", loaded(root, "vae"), format=format, dtype=dtype)
  (file,) = (tmp_path / "model").glob("*.safetensors")
  assert {value.dtype for value in load_file(file).values()} == {np.dtype(dtype)}
  assert_equal(weights.load(tmp_path / "model", dtype=dtype), weights.load(root / "vae", dtype=dtype))


def test_a_folder_can_be_written_onto_itself(tmp_path):
  """While its tensors still lie in the files that are replaced."""
  folder_of(tmp_path / "model", "vae")
  before = weights.load(tmp_path / "model")
  save(tmp_path / "model", resolve(tmp_path / "model"), format="diffusers", dtype=np.float16)
  assert_equal(weights.load(tmp_path / "model"), before)             # all values are float16 numbers
  assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- the same network in the files of others


def bin_file(path, arrays):
  """As torch.save writes it."""
  archive = Archive()
  archive.zip(path, StateDict({name: archive.tensor(value) for name, value in arrays.items()}))


def shards(folder, stem, ending, arrays, writer):
  """Two files and their index, as save_pretrained writes them."""
  names, files = list(arrays), [f"{stem}-0000{part}-of-00002.{ending}" for part in (1, 2)]
  halves = names[:len(names) // 3], names[len(names) // 3:]
  for file, half in zip(files, halves):
    writer(folder / file, {name: arrays[name] for name in half})
  places = {name: file for file, half in zip(files, halves) for name in half}
  write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": 1}, "weight_map": places})


@pytest.mark.parametrize("form", ["float16", "variant", "bin", "legacy bin", "sharded", "sharded bin", "prefixed"])
@pytest.mark.parametrize("kind", ["vae", "text_encoder"])
def test_every_way_to_keep_a_network_is_the_same_network(root, tmp_path, kind, form):
  expected, arrays = loaded(root, kind), tensors(kind)
  stem = "model" if kind == "text_encoder" else "diffusion_pytorch_model"
  torch_stem = "pytorch_model" if kind == "text_encoder" else stem
  write_json(tmp_path / "config.json", SETTINGS[kind](CONFIGS[kind]))
  half = {name: value.astype(np.float16) for name, value in arrays.items()}
  if form == "float16":
    write(tmp_path / f"{stem}.safetensors", half)
  elif form == "variant":
    write(tmp_path / f"{stem}.fp16.safetensors", half)
    write(tmp_path / f"{stem}.safetensors", {name: 2 * value for name, value in arrays.items()})
  elif form == "bin":
    bin_file(tmp_path / f"{torch_stem}.bin", arrays)
  elif form == "legacy bin":
    archive = Archive()
    archive.legacy(tmp_path / f"{torch_stem}.bin", StateDict({
        name: archive.tensor(value) for name, value in arrays.items()}))
  elif form == "sharded":
    shards(tmp_path, stem, "safetensors", arrays, write)
  elif form == "sharded bin":
    shards(tmp_path, torch_stem, "bin", half, bin_file)
  elif form == "prefixed":
    write(tmp_path / f"{stem}.safetensors", {f"module.{name}" if kind == "vae" else f"text_model.{name}": value
                                             for name, value in arrays.items()})
  assert_equal(weights.load(tmp_path, variant="fp16" if form == "variant" else None), expected)


# --- what must not happen


@pytest.mark.parametrize("config", [dataclasses.replace(UNET, multiview=True),
                                    dataclasses.replace(UNET, view_conditions=True)])
def test_what_diffusers_has_no_network_for_stays_in_our_format(tmp_path, config):
  save(tmp_path / "given", weights.load(ours_of(tmp_path / "ours", "unet", config)))
  network = weights.load(tmp_path / "given")
  assert network.config == config
  with pytest.raises(weights.WeightsError, match="diffusers has no network with (multiview|view_conditions): keep our"):
    save(tmp_path / "model", network, format="diffusers")
  assert not (tmp_path / "model").exists()


def ours_of(folder, kind, config):
  """A folder of our format, spelt here."""
  def path(name, value):
    *parents, last = name.split(".")
    return "/".join([kind, *parents, {"weight": "kernel" if value.ndim > 1 else "scale"}.get(last, last)])

  axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
  write(folder / "model.safetensors", {path(name, value): np.ascontiguousarray(value.transpose(axes[value.ndim]))
                                       for name, value in tensors(kind, config).items()})
  write_json(folder / "config.json", {"networks": {kind: dataclasses.asdict(config)}})
  return folder


def test_the_adapter_stays_in_our_format(root, tmp_path):
  adapter = loaded(root, "adapter360")
  for networks in (adapter, {"unet": loaded(root, "unet"), "adapter360": adapter}):
    with pytest.raises(weights.WeightsError, match="has no place in diffusers: keep our own format"):
      save(tmp_path / "model", networks, format="diffusers")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["panda", "diffusers"])
@pytest.mark.parametrize("bad, dtype, words", [
    (np.nan, None, "holds NaN or infinity"), (np.inf, None, "holds NaN or infinity"),
    (1e6, np.float16, "beyond the range of float16")])
def test_a_failure_leaves_what_was_there(root, tmp_path, format, bad, dtype, words):
  """The tensor is found late, when others are written already; it is named, and nothing half-written remains."""
  arrays = tensors("vae")
  arrays["quant_conv.weight"][0, 0, 0, 0] = bad
  folder_of(tmp_path / "given", "vae", arrays=arrays)
  save(tmp_path / "model", loaded(root, "vae"), format=format)
  before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
  for folder in ("model", "new"):
    with pytest.raises(weights.WeightsError, match=f"quant_conv.weight .*{words}"):
      save(tmp_path / folder, resolve(tmp_path / "given"), format=format, dtype=dtype)
  assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
  assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "model"]


@pytest.mark.parametrize("format", ["panda", "diffusers"])
@pytest.mark.parametrize("others", [("thesis.tex",), ("config.json", "thesis.tex"), ("unet", "thesis.tex"),
                                    ("model_index.json", "scheduler", "unet")])
def test_a_folder_of_other_things_is_never_replaced(root, tmp_path, format, others):
  """Nor is a model with other things beside it: a whole pipeline, or the notes of its owner."""
  for name in others:
    (tmp_path / "mine" / name).mkdir(parents=True)
  with pytest.raises(InputError, match=f"mine exists and is not a model folder .*({'|'.join(others)})"):
    save(tmp_path / "mine", loaded(root, "vae"), format=format)
  assert {path.name for path in (tmp_path / "mine").iterdir()} == set(others)
  (tmp_path / "file").write_text("years of work")
  with pytest.raises(InputError, match="is not a model folder"):
    save(tmp_path / "file", loaded(root, "vae"), format=format)


@pytest.mark.parametrize("first, second", [("panda", "diffusers"), ("diffusers", "panda")])
def test_a_model_alone_is_replaced_by_another(root, tmp_path, first, second):
  save(tmp_path / "model", {"vae": loaded(root, "vae"), "unet": loaded(root, "unet")}, format=first)
  save(tmp_path / "model", loaded(root, "text_encoder"), format=second)
  assert_equal(weights.load(tmp_path / "model"), loaded(root, "text_encoder"))
  assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_folder_one_is_in_can_be_meant(root, tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  save(".", loaded(root, "vae"))
  assert_equal(weights.load(tmp_path / "here"), loaded(root, "vae"))


def test_a_tokenizer_goes_with_a_pipeline(root, tmp_path):
  given = tmp_path / "given"
  for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "notes.txt"):
    write_json(given / name, {})
  save(tmp_path / "model", {kind: loaded(root, kind) for kind in ALL}, format="diffusers", tokenizer=given)
  names = {path.name for path in (tmp_path / "model" / "tokenizer").iterdir()}
  assert names == {"vocab.json", "merges.txt", "tokenizer_config.json"}
  assert json.loads((tmp_path / "model" / "model_index.json").read_text())["tokenizer"] == [
      "transformers", "CLIPTokenizer"]


@pytest.mark.parametrize("networks, error", [
    ({}, ValueError), ({"a": UNET, "b": UNET}, TypeError), (ADAPTER, TypeError)])
def test_what_is_no_network_is_refused(tmp_path, networks, error):
  with pytest.raises(error):
    save(tmp_path / "model", networks)
  with pytest.raises(ValueError, match="format is 'ldm'; it may be panda or diffusers"):
    save(tmp_path / "model", networks, format="ldm")


def test_two_networks_of_one_kind_cannot_share_a_folder(root, tmp_path):
  with pytest.raises(ValueError, match="one of each kind, got UNet, UNet"):
    save(tmp_path / "model", {"a": loaded(root, "unet"), "b": loaded(root, "sd2")})


@pytest.mark.parametrize("damage, words", [
    (lambda content: content["networks"].clear(), "no network that its config.json names"),
    (lambda content: content["networks"].update(decoder={}), "no network of ours .'decoder'."),
    (lambda content: content["networks"]["vae"].update(colour="red"), "no network of ours"),
    (lambda content: content["networks"]["vae"].update(norm_groups=0), "no network of ours"),
    (lambda content: content["networks"]["vae"].update(layers_per_block=2), "does not fit the VAE .*missing"),
    (lambda content: content.update(networks=5), "no network of ours"),
    (lambda content: content["networks"].update(unet=content["networks"].pop("vae")), "no network of ours")])
def test_a_damaged_config_of_ours_is_refused_in_one_sentence(root, tmp_path, damage, words):
  save(tmp_path, loaded(root, "vae"))
  content = json.loads((tmp_path / "config.json").read_text())
  damage(content)
  write_json(tmp_path / "config.json", content)
  with pytest.raises(weights.WeightsError, match=words) as refusal:
    weights.load(tmp_path)
  assert str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_tensors_of_a_network_that_our_config_does_not_name_are_refused(root, tmp_path):
  save(tmp_path, {"vae": loaded(root, "vae"), "text_encoder": loaded(root, "text_encoder")})
  content = json.loads((tmp_path / "config.json").read_text())
  del content["networks"]["vae"]
  write_json(tmp_path / "config.json", content)
  with pytest.raises(weights.WeightsError, match="tensors of no network that its config.json names: vae/"):
    weights.load(tmp_path)


# --- in diffusers and transformers


@pytest.fixture(scope="module")
def torch():
  pytest.importorskip("diffusers")
  pytest.importorskip("transformers")
  return pytest.importorskip("torch")


def noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", ["unet", "sd2", "motion"])
def test_diffusers_computes_the_same_with_a_unet_of_ours(torch, root, tmp_path, name):
  import diffusers
  network = loaded(root, name)
  save(tmp_path, network, format="diffusers")
  frames = (3,) if name == "motion" else ()
  sample, text, timestep = noise(2, 4, *frames, 8, 6), noise(2, 5, 12, seed=1), np.array([981, 21])
  cls = diffusers.UNetMotionModel if name == "motion" else diffusers.UNet2DConditionModel
  theirs, info = cls.from_pretrained(tmp_path, output_loading_info=True)
  assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  with torch.no_grad():
    states = torch.tensor(text).repeat_interleave(3, 0) if frames else torch.tensor(text)
    expected = theirs.eval()(torch.tensor(sample), torch.tensor(timestep), states).sample.numpy()
  assert_close(run_unet(network, sample, timestep, text), expected, 2e-5, name)


def test_diffusers_computes_the_same_with_a_vae_of_ours(torch, root, tmp_path):
  import diffusers
  save(tmp_path, loaded(root, "vae"), format="diffusers")
  theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path).eval()
  image, latent = noise(1, 3, 16, 8), noise(1, 4, 8, 4)
  with torch.no_grad():
    mean = theirs.encode(torch.tensor(image)).latent_dist.mean.numpy()
    decoded = theirs.decode(torch.tensor(latent)).sample.numpy()
  ours = loaded(root, "vae")
  assert_close(np.moveaxis(run(ours, np.moveaxis(image, 1, -1), method="encode")[0], -1, 1), mean, 2e-5, "mean")
  assert_close(np.moveaxis(run(ours, np.moveaxis(latent, 1, -1), method="decode"), -1, 1), decoded, 2e-5, "decoded")
  assert theirs.config.scaling_factor == 0.18215


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_transformers_computes_the_same_with_a_text_encoder_of_ours(torch, tmp_path, activation):
  import transformers
  config = dataclasses.replace(CONFIGS["text_encoder"], activation=activation)
  network = weights.load(folder_of(tmp_path / "given", "text_encoder", config))
  save(tmp_path / "model", network, format="diffusers")
  theirs = transformers.CLIPTextModel.from_pretrained(tmp_path / "model").eval()
  ids = np.random.default_rng(0).integers(0, 30, (2, 9))
  with torch.no_grad():
    expected = theirs(torch.tensor(ids)).last_hidden_state.numpy()
  assert_close(run(network, ids), expected, 2e-5, activation)


def test_diffusers_takes_half_precision_too(torch, root, tmp_path):
  import diffusers
  save(tmp_path, loaded(root, "unet"), format="diffusers", dtype=jnp.bfloat16)
  theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
  expected = tensors("unet")["conv_in.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
  np.testing.assert_array_equal(theirs.conv_in.weight.float().detach().numpy(), expected)


@pytest.mark.parametrize("motion", [False, True])
def test_diffusers_opens_a_pipeline_of_ours(torch, root, tmp_path, motion):
  """The scheduler, which no file of weights tells, is for the user to say."""
  import diffusers
  networks = {kind: loaded(root, kind) for kind in ALL} | ({"unet": loaded(root, "motion")} if motion else {})
  save(tmp_path, networks, format="diffusers")
  theirs = diffusers.DiffusionPipeline.from_pretrained(
      tmp_path, scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1), tokenizer=None,
      feature_extractor=None, **({"motion_adapter": None} if motion else {"safety_checker": None}))
  assert type(theirs).__name__ == ("AnimateDiffPipeline" if motion else "StableDiffusionPipeline")
  np.testing.assert_array_equal(theirs.unet.conv_in.weight.detach().numpy(), tensors("unet", networks["unet"].config)[
      "conv_in.weight"])

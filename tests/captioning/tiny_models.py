"""Image-to-text models of random weights, a few thousand parameters each, as folders like the real ones.

They say nonsense, but every stage is the real one: processor, tokenizer, vision network, search, decoding.
"""

WORDS = ("a an the view of beach sea with trees street cars man dog hall room sky and red blue green in on under sunny "
         "describe this picture one short sentence").split()


def make_blip(folder, seed: int = 0):
  """BlipForConditionalGeneration with a BERT tokenizer."""
  import torch
  from transformers import (BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor,
                            BlipProcessor)
  folder.mkdir(parents=True)
  tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]      # [DEC] and [ENC] have numbers only
  (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
  tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)
  small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
  config = BlipConfig(
    text_config={**small, "vocab_size": len(tokens) + 2, "max_position_embeddings": 64, "encoder_hidden_size": 32,
                 "pad_token_id": 0, "bos_token_id": len(tokens), "eos_token_id": 3, "sep_token_id": 3,
                 "initializer_range": 0.5},
    vision_config={**small, "image_size": 32, "patch_size": 8, "initializer_range": 0.5}, projection_dim=16)
  torch.manual_seed(seed)
  model = BlipForConditionalGeneration(config)
  with torch.no_grad():                                # it shall not end before it has said something
    model.text_decoder.cls.predictions.bias[[*range(5), -2, -1]] = -50
  model.save_pretrained(folder)
  size = {"height": 32, "width": 32}
  BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(folder)
  return folder


def _word_tokenizer(tokens):
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast
  tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    additional_special_tokens=["<image>"])


def make_blip2(folder, seed: int = 0):
  """Blip2ForConditionalGeneration on OPT."""
  import torch
  from transformers import (Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, Blip2QFormerConfig,
                            Blip2VisionConfig, BlipImageProcessor, OPTConfig)
  tokens = ["<s>", "<pad>", "</s>", "<unk>", "<image>", *WORDS]
  small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
  text = OPTConfig(vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=2,
                   max_position_embeddings=128, word_embed_proj_dim=32, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                   init_std=0.5)
  config = Blip2Config(
    vision_config=Blip2VisionConfig(**small, image_size=32, patch_size=8).to_dict(),
    qformer_config=Blip2QFormerConfig(**small, vocab_size=len(tokens), encoder_hidden_size=32).to_dict(),
    text_config=text.to_dict(), num_query_tokens=4, image_token_index=4)
  torch.manual_seed(seed)
  Blip2ForConditionalGeneration(config).save_pretrained(folder)
  size = {"height": 32, "width": 32}
  Blip2Processor(BlipImageProcessor(size=size), _word_tokenizer(tokens), num_query_tokens=4).save_pretrained(folder)
  return folder


def make_llava(folder, seed: int = 0):
  """LlavaForConditionalGeneration: a model that talks, with a chat template."""
  import torch
  from transformers import (CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig,
                            LlavaForConditionalGeneration, LlavaProcessor)
  tokens = ["<s>", "<pad>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", *WORDS]
  small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
  config = LlavaConfig(
    vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=8, projection_dim=16),
    text_config=LlamaConfig(**small, vocab_size=len(tokens), max_position_embeddings=256, num_key_value_heads=2,
                            pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.5),
    image_token_index=4, vision_feature_layer=-1)
  torch.manual_seed(seed)
  LlavaForConditionalGeneration(config).save_pretrained(folder)
  template = ("{% for message in messages %}USER: {% for part in message['content'] %}"
              "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
              "{% endfor %}{% endfor %}ASSISTANT: ")
  LlavaProcessor(
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), _word_tokenizer(tokens),
    patch_size=8, vision_feature_select_strategy="default", chat_template=template,
    num_additional_image_tokens=1).save_pretrained(folder)
  return folder


def make_git(folder, seed: int = 0):
  """GitForCausalLM, which has one processor and no prompt."""
  import torch
  from transformers import BertTokenizerFast, CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor
  folder.mkdir(parents=True)
  tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
  (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
  small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
  config = GitConfig(vision_config={**small, "image_size": 32, "patch_size": 8}, **small, vocab_size=len(tokens),
                     max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3, initializer_range=0.5)
  torch.manual_seed(seed)
  GitForCausalLM(config).save_pretrained(folder)
  GitProcessor(CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
               BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)).save_pretrained(folder)
  return folder

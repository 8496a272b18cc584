"""Tiny models of transformers 5.24.0 (torch 2.13.0): CLIPModel with OpenAI's activation, and CLIPTextModel with GELU and
the end of text that configurations had before its id was right. Then the tokens of a small vocabulary by CLIPTokenizer."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).parent
SIZES = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2)
TEXT = dict(**SIZES, vocab_size=40, max_position_embeddings=12, bos_token_id=38)
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
torch.manual_seed(0)
images = torch.rand(2, 3, 28, 28)
ids = torch.randint(0, 38, (3, 12))
ids[:, 0] = 38
ids[0, 5:], ids[1, 11:], ids[2, 8:] = 39, 39, 39
mask = torch.ones(3, 12)
mask[0, 6:], mask[2, 9:] = 0, 0
tensors = {"images": images, "ids": ids, "mask": mask}
configs = {}


def values(case, model):
    for p in model.parameters():
        p.data = torch.randn_like(p) * (1.0 if p.dim() == 1 else 0.5)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors.update({f"{case}.{k}": v for k, v in load_file(f"{folder}/model.safetensors").items()})
        configs[case] = json.loads(Path(folder, "config.json").read_text())


def text(case, model, **arguments):
    found = model(input_ids=ids, output_hidden_states=True, **arguments)
    tensors[f"{case}.last"] = found.last_hidden_state
    tensors[f"{case}.pooled"] = found.pooler_output
    for i, state in enumerate(found.hidden_states):
        tensors[f"{case}.hidden.{i}"] = state
    return found


with torch.no_grad():
    whole = CLIPModel(
        CLIPConfig(
            text_config=dict(**TEXT, eos_token_id=39),
            vision_config=dict(**SIZES, image_size=28, patch_size=7),
            projection_dim=6,
        )
    )
    values("whole", whole)
    pixels = (images - MEAN) / STD
    vision = whole.vision_model(pixel_values=pixels)
    tensors["out.vision.last"] = vision.last_hidden_state
    tensors["out.vision.embeds"] = whole.visual_projection(vision.pooler_output)
    found = text("out.whole", whole.text_model)
    tensors["out.whole.embeds"] = whole.text_projection(found.pooler_output)
    text("out.masked", whole.text_model, attention_mask=mask)
    legacy = CLIPTextModel(CLIPTextConfig(**TEXT, eos_token_id=2, hidden_act="gelu"))
    values("legacy", legacy)
    text("out.legacy", legacy)
save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, HERE / "clip.safetensors")
(HERE / "clip.json").write_text(json.dumps(configs, indent=1) + "\n")

letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
merges = ["t h", "th e</w>", "c a", "ca t</w>", "p h", "ph o", "o f</w>", "pho t", "phot o</w>", "' s</w>", "Ã ©</w>"]
tokens = list(letters) + [f"{c}</w>" for c in letters] + ["Ã", "©", "Ã</w>", "©</w>"]
tokens += [m.replace(" ", "") for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
vocabulary = {token: i for i, token in enumerate(tokens)}
folder = HERE / "tokens"
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir()
(folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
(folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[tuple(m.split()) for m in merges])
(HERE / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str())
texts = [
    "a photo of the cat",
    "  The   CAT's photos,\n of 2026!?  ",
    "",
    "café",
    "the <|endoftext|> of it",
    "cat \U0001f408 with an emoji that no token has",
    "don't they'll we're i've i'm she'd",
]
(folder / "texts.json").write_text(
    json.dumps([{"text": t, "ids": tokenizer(t)["input_ids"]} for t in texts], indent=1) + "\n"
)
(HERE / "tokenizer.json").rename(folder / "tokenizer.json")

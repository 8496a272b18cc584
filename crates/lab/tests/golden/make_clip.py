"""A tiny CLIP of transformers 5.24.0 (torch 2.13.0) with random weights, both towers, and the tokens that it takes, as a
folder: for guidance and alignment, which any CLIP serves."""

import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

HERE = Path(__file__).parent
TOKENS = HERE.parents[2] / "features/tests/golden/tokens"
SIZES = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
torch.manual_seed(0)
vocabulary = len(json.loads((TOKENS / "vocab.json").read_text()))
clip = CLIPModel(
    CLIPConfig(
        text_config=dict(
            **SIZES,
            vocab_size=vocabulary,
            max_position_embeddings=12,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        ),
        vision_config=dict(**SIZES, image_size=16, patch_size=4),
        projection_dim=6,
    )
)
for p in clip.parameters():
    p.data = torch.randn_like(p) * 0.5 + (1.0 if p.dim() == 1 and p.mean() == 1 else 0.0)
folder = HERE / "pipelines" / "clip"
shutil.rmtree(folder, ignore_errors=True)
clip.save_pretrained(folder)
CLIPTokenizer.from_pretrained(TOKENS, model_max_length=12).save_pretrained(folder)

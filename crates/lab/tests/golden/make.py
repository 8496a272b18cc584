"""Whole pipelines of diffusers 0.42.1 (torch 2.13.0, transformers 5.24.0, peft 0.21.2) with tiny random weights, as folders,
and what they make of given noise: DDPMPipeline (every draw given), DiTPipeline with guidance, StableDiffusionPipeline with
the published scheduler of Stable Diffusion 1 (PNDM), with and without guidance and with a LoRA, and
StableDiffusionControlNetPipeline, plain and in guess mode."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.ddpm import pipeline_ddpm
from diffusers.pipelines.dit import pipeline_dit
from diffusers.schedulers import scheduling_ddpm
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).parent
TOKENS = HERE.parents[2] / "features/tests/golden/tokens"
STEPS = 4
torch.manual_seed(0)
expected = {}


def random(model):
    """Weights of a size at which every block matters; what starts at 0 too."""
    for p in model.parameters():
        spread = 0.3 if p.dim() == 1 else 1.2 / p[0].numel() ** 0.5
        p.data = torch.randn_like(p) * spread + (1.0 if p.dim() == 1 and p.mean() == 1 else 0.0)
    return model.eval()


def saved(pipeline, name):
    folder = HERE / "pipelines" / name
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    return folder


def keep(name, images):
    expected[f"{name}.images"] = images * 2 - 1


def taped(*modules):
    """Replaces where these modules draw noise; the draws are on the tape."""
    tape = []

    def draw(shape, **_):
        tape.append(torch.randn(shape))
        return tape[-1]

    for module in modules:
        module.randn_tensor = draw
    return tape


def vae():
    return random(
        AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=[8, 8],
            norm_num_groups=4,
            sample_size=16,
            scaling_factor=0.7,
        )
    )


def unconditional():
    unet = random(
        UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
        )
    )
    pipeline = DDPMPipeline(unet, DDPMScheduler(clip_sample=True))
    pipeline.set_progress_bar_config(disable=True)
    saved(pipeline, "ddpm")
    tape = taped(pipeline_ddpm, scheduling_ddpm)
    keep("ddpm", pipeline(batch_size=2, num_inference_steps=STEPS, output_type="pt").images)
    # The last step draws nothing.
    expected["ddpm.initial"], draws = tape[0], tape[1:]
    expected["ddpm.steps"] = torch.stack([*draws, *[torch.zeros_like(tape[0])] * (STEPS - len(draws))])


def classes():
    dit = random(
        DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            norm_num_groups=4,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
    )
    names = {i: f"class {i}, number {i}" for i in range(1000)}
    names[7] = "tabby, tabby cat"
    pipeline = DiTPipeline(dit, vae(), DDIMScheduler(clip_sample=False), id2label=names)
    pipeline.set_progress_bar_config(disable=True)
    folder = saved(pipeline, "dit")
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {str(k): names[k] for k in range(10)}  # published folders have them; saving leaves them out
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
    tape = taped(pipeline_dit)
    keep("dit", pipeline([7, 3], num_inference_steps=STEPS, output_type="pt").images)
    expected["dit.initial"] = tape[0]


def texts():
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(json.loads((TOKENS / "vocab.json").read_text())),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
        )
    )
    vocabulary = json.loads((TOKENS / "vocab.json").read_text())
    text.config.bos_token_id, text.config.eos_token_id = len(vocabulary) - 2, len(vocabulary) - 1
    tokenizer = CLIPTokenizer.from_pretrained(TOKENS, model_max_length=12)
    unet = random(
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    )
    parts = dict(
        vae=vae(),
        text_encoder=random(text),
        tokenizer=tokenizer,
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    sd = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    pndm = PNDMScheduler(**sd, skip_prk_steps=True, set_alpha_to_one=False)
    pipeline = StableDiffusionPipeline(**parts, scheduler=pndm)
    pipeline.set_progress_bar_config(disable=True)
    saved(pipeline, "sd")
    latents = torch.randn(2, 4, 8, 8)
    expected["sd.initial"] = latents
    prompts, negative = ["a photo of the cat", "the photo's cat"], "of the"

    def run(pipeline, n=STEPS, **options):
        return pipeline(
            prompts,
            negative_prompt=[negative] * 2,
            latents=latents,
            num_inference_steps=n,
            output_type="pt",
            height=16,
            width=16,
            **options,
        ).images

    keep("sd", run(pipeline))
    keep("sd-plain", run(pipeline, guidance_scale=1.0))

    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    hint = (torch.rand(16, 16, 3) * 255).byte().numpy()
    Image.fromarray(hint).save(HERE / "pipelines" / "hint.png")
    control = StableDiffusionControlNetPipeline(
        **{**parts, "controlnet": random(net)}, scheduler=EulerDiscreteScheduler(**sd)
    )
    control.set_progress_bar_config(disable=True)
    saved(control, "control")
    image = [Image.open(HERE / "pipelines" / "hint.png")] * 2
    keep("control", run(control, image=image, controlnet_conditioning_scale=0.7))
    keep("control-guess", run(control, image=image, guess_mode=True, controlnet_conditioning_scale=1.0))

    unet.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=["to_q", "to_v", "to_out.0", "conv1"]))
    for name, p in unet.named_parameters():
        if "lora_" in name:
            p.data = torch.randn_like(p) * 0.5
    state = get_peft_model_state_dict(unet)
    folder = HERE / "pipelines" / "lora"
    shutil.rmtree(folder, ignore_errors=True)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)
    unet.unload_lora()
    pipeline.load_lora_weights(folder)
    keep("sd-lora", run(pipeline))


with torch.no_grad():
    unconditional()
    classes()
    texts()
save_file({k: v.contiguous() for k, v in expected.items()}, HERE / "pipelines.safetensors")
for name, value in expected.items():
    print(name, list(value.shape), f"{value.min():.2f} to {value.max():.2f}, {value.std():.2f}")

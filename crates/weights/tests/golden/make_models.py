"""models.json and models.safetensors: outputs and gradients of tiny UNet2DModels, UNet2DConditionModels and
DiTTransformer2DModels of diffusers 0.42.1 (torch 2.13.0, CPU, one thread).

models.json has the configurations, parameter shapes and input names; models.safetensors has the inputs (f32; timestep
and class indices int64, timestep float64 where it is Fourier-embedded) and, in f64, `out` of the model in eval mode,
`grad_sample` = d mean(out^2) / d sample, and `grads`: for each parameter, sorted by name, of its gradient g with flat
index i: sum g, sum g cos(0.1 i + 0.3), sqrt(sum g^2); zeros without gradient. Weights are not stored: see `weight`.

In the peer's f64 some steps are f32: sinusoids of positional timesteps, class labels and time_ids (from the exponent
on), the position embedding (f64, rounded to f32), and the softmax of the attention pool (addition_embed_type "text").

What the peer itself cannot run, so that there is no case of it:

UNet2DModel
- CrossAttn*, SimpleCrossAttn* blocks: ValueError, cross_attention_dim must be specified.
- DownEncoderBlock2D, AttnDownEncoderBlock2D (no skips): ValueError, not enough values to unpack, or with a batch of 2
  TypeError, can only concatenate tuple. UpDecoderBlock2D, AttnUpDecoderBlock2D: TypeError, forward() takes from 2 to
  3 positional arguments but 4 were given.
- resnet_time_scale_shift "ada_group": ValueError, please use ResnetBlockCondNorm2D; "spatial": the same, or with K*
  blocks, which do not heed it, ValueError in F.interpolate in the middle block (without one it runs).
- norm_num_groups None where a block is neither K* nor Skip*: TypeError in GroupNorm.
- Skip* blocks that resample: where in_channels or out_channels is not 3, a SkipDown block follows another block, or
  another block follows a SkipUp block: RuntimeError, shapes differ.
- K* blocks on one side only of more than one level: RuntimeError, sizes of skips; below 32 channels:
  ZeroDivisionError in GroupNorm.
- AttnSkip* with channels that are no multiples of 32: ValueError, must be divisible by num_groups.
- attention_head_dim above a width (no head): ZeroDivisionError.
- class_embed_type "timestep" with positional time embedding in f64: RuntimeError, must have the same dtype (the
  embedding stays f32). It runs in f32; for f64, a hook casts it here.
- time_embedding_type "learned" without num_train_timesteps: TypeError.
- sizes that are no multiples of the upsampling, downsample_padding over 1: RuntimeError, sizes of skips.
UNet2DConditionModel
- num_attention_heads: ValueError, "not possible to define". attention_head_dim None: TypeError, no len() (None for a
  block without CrossAttn runs); above a width: ZeroDivisionError.
- Skip*, AttnSkip*: AttributeError, no attribute 'device' or 'dim'. DownEncoder*: as above; UpDecoder*: TypeError,
  unexpected keyword argument 'res_hidden_states_tuple'.
- dual_cross_attention with any CrossAttn block: TypeError, DualTransformer2DModel.forward() got an unexpected keyword
  argument 'encoder_attention_mask' (without one it runs and changes nothing).
- nested transformer_layers_per_block without its reverse: ValueError, "Must provide" (tuples: IndexError).
- encoder_hid_dim_type "ip_image_proj": ValueError, must be None, 'text_proj', ...; any with cross_attention_dim by
  block, and attention_type "gated" with it as a list (a tuple runs): TypeError in Linear.
- cross_attention_norm "layer_norm" where a SimpleCrossAttn block has other channels than cross_attention_dim:
  RuntimeError in layer_norm; "group_norm" with cross_attention_dim no multiple of 32: ValueError.
- encoder_attention_mask in a SimpleCrossAttn block with only_cross_attention or of as many tokens as it has pixels,
  and a mask of another length than the tokens in a CrossAttn block: RuntimeError (a mask that differs in length is
  lengthened by the number of pixels or tokens, and must then fit).
- SimpleCrossAttn blocks whose head width does not divide their channels: RuntimeError, invalid shape.
- sizes that are no multiples of the upsampling where a ResnetUpsample*, SimpleCrossAttnUp* or K* block upsamples,
  even conv_in_kernel: RuntimeError, sizes of skips.
- class_embeddings_concat without a class embedding: RuntimeError, shapes cannot be multiplied.
- time_embedding_type "learned", resnet_time_scale_shift "ada_group" and "spatial": ValueError.
DiTTransformer2DModel
- norm_type other than "ada_norm_zero": NotImplementedError; num_embeds_ada_norm None: ValueError.
- an inner width that is no multiple of 4: ValueError, embed_dim must be divisible by 2.
- activation_fn other than those below: UnboundLocalError. num_layers 0: IndexError.
- images that are not square: RuntimeError in reshape, or without an error an output of wrong order, shape or batch.
"""

import json
from math import prod, sqrt
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()


def weight(name, k, shape):
    """Values of parameter `name`, the k-th in sorted order: a hash of k and the flat index."""
    i = torch.arange(prod(shape))
    h = (i * 2654435761 + (k + 1) * 2246822519) % 2**32
    for _ in range(2):
        h = (((h >> 16) ^ h) * 73244475) % 2**32
    u = ((h >> 16) ^ h).double() / 2**32 - 0.5
    if len(shape) >= 2:
        return (u * 2 / sqrt(prod(shape) / shape[0])).float().reshape(shape)
    return (0.3 * u + (1.0 if name.endswith(".weight") else 0.0)).float().reshape(shape)


cases = []


def unet2d(name, size=(8, 8), **config):
    down = config.pop("down", ("DownBlock2D", "AttnDownBlock2D"))
    base = dict(
        sample_size=8, down_block_types=down, up_block_types=mirrored(down),
        block_out_channels=(4, 6, 10, 14)[: len(down)], layers_per_block=1, norm_num_groups=2, attention_head_dim=2,
    )
    cases.append((f"unet2d_{name}", "UNet2DModel", base | config, dict(size=size)))


def unet2d_condition(name, size=(8, 8), tokens=7, masked=0, omit=(), **config):
    down = config.pop("down", ("CrossAttnDownBlock2D", "DownBlock2D"))
    base = dict(
        sample_size=8, in_channels=4, out_channels=3, down_block_types=down, up_block_types=mirrored(down),
        block_out_channels=(4, 6, 10, 14)[: len(down)], layers_per_block=1, norm_num_groups=2, attention_head_dim=2,
        cross_attention_dim=5,
    )
    options = dict(size=size, tokens=tokens, masked=masked, omit=omit)
    cases.append((f"unet2d_condition_{name}", "UNet2DConditionModel", base | config, options))


def dit(name, size=(8, 8), **config):
    base = dict(
        num_attention_heads=2, attention_head_dim=6, in_channels=3, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10, activation_fn="gelu-approximate",
    )
    cases.append((f"dit_{name}", "DiTTransformer2DModel", base | config, dict(size=size)))


def mirrored(down):
    return tuple(d.replace("Downsample", "Upsample").replace("Down", "Up") for d in reversed(down))


unet2d("ddpm", (16, 16), down=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"), layers_per_block=2,
       downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, dropout=0.1)
unet2d("defaults_4_levels_not_square", (8, 16),
       down=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"))
unet2d("layers_3_attention_first_not_square", (12, 8), layers_per_block=3, block_out_channels=(6, 10),
       down=("AttnDownBlock2D", "DownBlock2D"), in_channels=1, out_channels=2)
unet2d("one_level", (6, 10), down=("AttnDownBlock2D",), layers_per_block=2, act_fn="relu")
unet2d("sides_differ", down=("AttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D"),
       up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D"))
unet2d("unetres_prefix", down=("UNetResDownBlock2D", "UNetResAttnDownBlock2D"))
unet2d("attention_resnet_resampling_head_width_1", down=("AttnDownBlock2D",) * 3, downsample_type="resnet",
       upsample_type="resnet", attention_head_dim=1)
unet2d("attention_resnet_resampling_scale_shift", (8, 12), down=("AttnDownBlock2D", "AttnDownBlock2D"),
       downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift", layers_per_block=2)
unet2d("attention_resnet_down_conv_up_mish", down=("AttnDownBlock2D", "AttnDownBlock2D"), downsample_type="resnet",
       act_fn="mish", downsample_padding=0)
unet2d("resnet_resampling_mish", down=("ResnetDownsampleBlock2D",) * 3, act_fn="mish")
unet2d("resnet_resampling_scale_shift_gelu", down=("ResnetDownsampleBlock2D", "DownBlock2D"), layers_per_block=2,
       resnet_time_scale_shift="scale_shift", act_fn="gelu")
unet2d("skip_fourier_no_norm_groups", down=("SkipDownBlock2D",) * 3, block_out_channels=(4, 8, 12),
       time_embedding_type="fourier", norm_num_groups=None, attention_head_dim=4)
unet2d("skip_swish_then_others", (8, 16), down=("SkipDownBlock2D", "DownBlock2D", "AttnDownBlock2D"), act_fn="swish",
       up_block_types=("AttnUpBlock2D", "SkipUpBlock2D", "SkipUpBlock2D"), block_out_channels=(4, 8, 12))
unet2d("ncsnpp_attention_skip_fourier", down=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
       block_out_channels=(32, 64, 32), attention_head_dim=16, time_embedding_type="fourier", norm_num_groups=8,
       mid_block_scale_factor=sqrt(2), norm_eps=1e-6, time_embedding_dim=12)
unet2d("attention_skip_scale_shift", down=("AttnSkipDownBlock2D", "AttnSkipDownBlock2D"), layers_per_block=2,
       block_out_channels=(32, 64), attention_head_dim=None, norm_num_groups=None, time_embedding_dim=10,
       resnet_time_scale_shift="scale_shift", attn_norm_num_groups=16, norm_eps=1e-2)
unet2d("k_gelu_no_norm_groups", down=("KDownBlock2D", "KDownBlock2D"), block_out_channels=(32, 64), act_fn="gelu",
       layers_per_block=2, norm_num_groups=None, attention_head_dim=16, time_embedding_dim=10)
unet2d("k_self_attention", down=("KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"),
       block_out_channels=(32, 48, 48), attention_head_dim=16, time_embedding_dim=48, mid_block_type=None)
unet2d("no_middle_block", mid_block_type=None, layers_per_block=2, down=("AttnDownBlock2D", "DownBlock2D"))
unet2d("middle_without_attention_skip_last", add_attention=False, mid_block_scale_factor=2.0, in_channels=2,
       out_channels=5, down=("DownBlock2D", "DownBlock2D", "SkipDownBlock2D"), block_out_channels=(4, 8, 12),
       up_block_types=("UpBlock2D", "UpBlock2D", "SkipUpBlock2D"))
unet2d("attention_norm_groups_middle_scale_factor", attn_norm_num_groups=3, mid_block_scale_factor=1.5,
       norm_eps=1e-2)
unet2d("head_width_not_dividing", attention_head_dim=4, block_out_channels=(6, 10))
unet2d("fourier_class_timestep", time_embedding_type="fourier", class_embed_type="timestep")
unet2d("positional_class_timestep_relu", class_embed_type="timestep", act_fn="relu", block_out_channels=(9, 6),
       norm_num_groups=3, attention_head_dim=3)
unet2d("learned_class_timestep", time_embedding_type="learned", num_train_timesteps=12, class_embed_type="timestep")
unet2d("class_identity_centered_time_width", class_embed_type="identity", center_input_sample=True,
       time_embedding_dim=14)
unet2d("class_labels_head_width_none", num_class_embeds=5, freq_shift=1, attention_head_dim=None)

unet2d_condition("sd1", down=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), layers_per_block=2,
                 out_channels=4)
unet2d_condition("sd2_linear_upcast_heads_not_square", (8, 12), use_linear_projection=True, upcast_attention=True,
                 down=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=(1, 3, 5))
unet2d_condition("sdxl_text_time", down=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                 transformer_layers_per_block=(1, 2, 3), attention_head_dim=(1, 2, 5), use_linear_projection=True,
                 addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=33)
unet2d_condition("inpainting_9_channels_centered_kernels_5_1", in_channels=9, center_input_sample=True,
                 conv_in_kernel=5, conv_out_kernel=1, flip_sin_to_cos=False, freq_shift=1)
unet2d_condition("upscaler_class_labels_only_cross", in_channels=7, out_channels=4, num_class_embeds=6,
                 down=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), use_linear_projection=True,
                 only_cross_attention=(True, True, False), conv_out_kernel=5)
unet2d_condition("only_cross_attention_masked", only_cross_attention=True, masked=3, act_fn="mish",
                 down=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"))
unet2d_condition("nested_transformer_layers_scale_shift", down=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                 layers_per_block=2, transformer_layers_per_block=((1, 2), (3, 1)),
                 reverse_transformer_layers_per_block=((1, 2, 1), (2, 1, 3)), resnet_time_scale_shift="scale_shift")
unet2d_condition("per_block_text_time_sine_first", down=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
                 layers_per_block=(1, 3, 2), cross_attention_dim=(5, 9, 5), attention_head_dim=(4, 3, 2),
                 transformer_layers_per_block=(2, 1, 1), flip_sin_to_cos=False, freq_shift=1,
                 addition_embed_type="text_time", addition_time_embed_dim=6, projection_class_embeddings_input_dim=39)
unet2d_condition("heads_not_dividing_masked", attention_head_dim=4, block_out_channels=(6, 10), masked=2,
                 down=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), norm_eps=1e-2, dropout=0.2,
                 mid_block_scale_factor=1.5)
unet2d_condition("odd_sizes", (10, 14), down=("CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"))
unet2d_condition("odd_sizes_padding_0", (11, 7), down=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                 downsample_padding=0, mid_block_type="UNetMidBlock2D")
unet2d_condition("no_middle_block_scale_shift", mid_block_type=None, resnet_time_scale_shift="scale_shift",
                 down=("CrossAttnDownBlock2D", "UNetResCrossAttnDownBlock2D"))
unet2d_condition("attention_blocks_plain_middle", down=("AttnDownBlock2D", "ResnetDownsampleBlock2D"),
                 attention_head_dim=(None, 3), mid_block_type="UNetMidBlock2D", mid_block_scale_factor=2.0,
                 resnet_out_scale_factor=1.5, resnet_skip_time_act=True, layers_per_block=2)
unet2d_condition("if_simple_cross_attention_text", layers_per_block=2, block_out_channels=(8, 12, 16),
                 down=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
                 mid_block_type="UNetMidBlock2DSimpleCrossAttn", cross_attention_dim=32, attention_head_dim=4,
                 cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift", act_fn="gelu",
                 resnet_skip_time_act=True, resnet_out_scale_factor=1.4142, time_embedding_act_fn="gelu",
                 class_embed_type="timestep", encoder_hid_dim=6, encoder_hid_dim_type="text_proj",
                 addition_embed_type="text", addition_embed_type_num_heads=3, masked=2, mid_block_scale_factor=1.3)
unet2d_condition("simple_only_cross_layer_norm", down=("SimpleCrossAttnDownBlock2D",) * 2, cross_attention_dim=6,
                 block_out_channels=(6, 6), mid_block_type="UNetMidBlock2DSimpleCrossAttn", attention_head_dim=3,
                 only_cross_attention=True, cross_attention_norm="layer_norm")
unet2d_condition("simple_head_widths_not_reversed_masked", down=("SimpleCrossAttnDownBlock2D",) * 3,
                 block_out_channels=(8, 12, 16), attention_head_dim=(2, 3, 4), masked=4, tokens=9, norm_eps=1e-2,
                 mid_block_type="UNetMidBlock2DSimpleCrossAttn")
unet2d_condition("simple_only_cross_per_block_middle", down=("SimpleCrossAttnDownBlock2D",) * 3,
                 only_cross_attention=(True, False, False), mid_block_only_cross_attention=True,
                 mid_block_type="UNetMidBlock2DSimpleCrossAttn")
unet2d_condition("k_upscaler", down=("KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"),
                 mid_block_type=None, block_out_channels=(32, 64, 64), layers_per_block=2, attention_head_dim=16,
                 time_embedding_type="fourier", time_embedding_dim=64, time_cond_proj_dim=7, timestep_post_act="gelu",
                 act_fn="gelu", norm_num_groups=None, conv_in_kernel=1, conv_out_kernel=1, in_channels=8,
                 out_channels=5, resnet_time_scale_shift="scale_shift", masked=3, norm_eps=1e-2)
unet2d_condition("k_without_self_attention", down=("KCrossAttnDownBlock2D", "KDownBlock2D"),
                 block_out_channels=(32, 48), attention_head_dim=(8, 16), norm_num_groups=8, layers_per_block=2,
                 mid_block_type="UNetMidBlock2D", time_embedding_dim=10, norm_eps=1e-2)
unet2d_condition("text_image_masked", encoder_hid_dim=6, encoder_hid_dim_type="text_image_proj", masked=13, tokens=4,
                 addition_embed_type="text_image", mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                 down=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"))
unet2d_condition("image", encoder_hid_dim=6, encoder_hid_dim_type="image_proj", addition_embed_type="image",
                 down=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), attention_head_dim=3,
                 mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=(6, 12))
unet2d_condition("image_hint", (4, 4), in_channels=8, encoder_hid_dim=6, encoder_hid_dim_type="image_proj",
                 addition_embed_type="image_hint", down=("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
                 mid_block_type="UNetMidBlock2DSimpleCrossAttn")
unet2d_condition("text_default_projection", addition_embed_type="text", addition_embed_type_num_heads=5,
                 encoder_hid_dim=10, timestep_post_act="mish")
unet2d_condition("class_projection_text_of_context_relu", class_embed_type="projection", act_fn="relu",
                 projection_class_embeddings_input_dim=7, addition_embed_type="text", time_embedding_act_fn="silu",
                 addition_embed_type_num_heads=1, time_embedding_dim=12, timestep_post_act="silu")
unet2d_condition("class_simple_projection_concat", class_embed_type="simple_projection",
                 projection_class_embeddings_input_dim=7, class_embeddings_concat=True, time_cond_proj_dim=6)
unet2d_condition("fourier_sine_first_class_timestep_concat_gelu", time_embedding_type="fourier",
                 flip_sin_to_cos=False, class_embed_type="timestep", class_embeddings_concat=True, act_fn="gelu",
                 time_cond_proj_dim=6, omit=("timestep_cond",))
unet2d_condition("class_identity_swish_gated", class_embed_type="identity", time_embedding_act_fn="swish",
                 act_fn="swish", attention_type="gated")
unet2d_condition("gated_text_image", attention_type="gated-text-image")

dit("gelu_approximate_double_channels", out_channels=6, num_layers=3)
dit("gelu_patch_1", (4, 4), patch_size=1, sample_size=4, activation_fn="gelu", num_attention_heads=3,
    attention_head_dim=4)
dit("geglu_patch_4_larger_image", (16, 16), patch_size=4, activation_fn="geglu", attention_head_dim=4, in_channels=4)
dit("geglu_approximate_no_attention_bias", activation_fn="geglu-approximate", attention_bias=False)
dit("swiglu_affine_smaller_image", (6, 6), activation_fn="swiglu", norm_elementwise_affine=True, num_embeds_ada_norm=1)
dit("linear_silu_eps_upcast", activation_fn="linear-silu", norm_eps=0.1, upcast_attention=True, dropout=0.1,
    num_layers=1, out_channels=1)


def inputs(cls, config, options, noise):
    """The inputs a model of this configuration takes."""
    height, width = options["size"]
    hint = config.get("addition_embed_type") == "image_hint"
    x = {"sample": noise(2, config["in_channels"] - 4 * hint, height, width)}
    if cls == "DiTTransformer2DModel":  # the last embedding is that of no class
        classes = config["num_embeds_ada_norm"]
        return x | {"timestep": torch.tensor([7, 900]), "class_labels": torch.tensor([classes - 1, classes])}

    embedding, channels = config["time_embedding_type"], config["block_out_channels"][0]
    fourier = embedding == "fourier"
    if fourier:
        x["timestep"] = torch.tensor([0.35, 1.7], dtype=torch.float64)
    else:
        x["timestep"] = torch.tensor([7, 11] if embedding == "learned" else [7, 900])

    factor = 2 if fourier and cls == "UNet2DConditionModel" else 4
    time_width = config["time_embedding_dim"] or channels * factor
    kind = config["class_embed_type"]
    if kind == "timestep":
        x["class_labels"] = torch.tensor([3, 9]) if embedding == "learned" else torch.tensor([0.5, 2.25])
    elif kind == "identity":
        x["class_labels"] = noise(2, time_width)
    elif kind in ("projection", "simple_projection"):
        x["class_labels"] = noise(2, config["projection_class_embeddings_input_dim"])
    elif config["num_class_embeds"] is not None:
        x["class_labels"] = torch.tensor([3, 1])
    if cls == "UNet2DModel":
        return x

    context = config["cross_attention_dim"]
    context = context if isinstance(context, int) else context[0]
    hidden, added = config["encoder_hid_dim_type"], config["addition_embed_type"]
    if hidden != "image_proj":
        x["encoder_hidden_states"] = noise(2, options["tokens"], config["encoder_hid_dim"] or context)
    if options["masked"]:  # the second image ignores the last tokens
        mask = torch.ones(2, options["tokens"] + 10 * (hidden == "text_image_proj"))
        mask[1, -options["masked"]:] = 0
        x["encoder_attention_mask"] = mask
    if config["time_cond_proj_dim"] is not None and "timestep_cond" not in options["omit"]:
        x["timestep_cond"] = noise(2, config["time_cond_proj_dim"])
    if added == "text_time":
        ids = 6 * config["addition_time_embed_dim"]
        x["text_embeds"] = noise(2, config["projection_class_embeddings_input_dim"] - ids)
        x["time_ids"] = torch.tensor([[512.0, 640, 0, 16, 512, 768], [1024.0, 256, 8, 0, 1024, 1000]])
    if added == "text_image":
        x["text_embeds"] = noise(2, context)
        x["image_embeds"] = noise(2, context)
    if added in ("image", "image_hint"):
        x["image_embeds"] = noise(2, config["encoder_hid_dim"])
    if hint:
        x["hint"] = noise(2, 3, 8 * height, 8 * width)
    return x


def run(model, x):
    """Output of `model` on inputs `x`, whose names are those of diffusers."""
    added = {k: x[k] for k in ("text_embeds", "time_ids", "image_embeds", "hint") if k in x}
    direct = {k: v for k, v in x.items() if k not in added and k not in ("sample", "timestep")}
    if added:
        direct["added_cond_kwargs"] = added
    if isinstance(model, diffusers.UNet2DConditionModel):
        direct.setdefault("encoder_hidden_states", None)
    return model(x["sample"], x["timestep"], **direct).sample


tensors, descriptions = {}, []
for number, (name, cls, config, options) in enumerate(cases):
    generator = torch.Generator().manual_seed(number)
    model = getattr(diffusers, cls)(**config).eval()
    config = {k: v for k, v in model.config.items() if not k.startswith("_")}
    x = inputs(cls, config, options, lambda *shape: torch.randn(shape, generator=generator))
    parameters = dict(sorted(model.named_parameters()))
    for k, (n, p) in enumerate(parameters.items()):
        p.data = weight(n, k, p.shape)
    with torch.no_grad():
        single = run(model, x)

    model.double()
    if cls == "UNet2DModel":
        model.time_proj.register_forward_hook(lambda module, args, out: out.double())
    double = {k: v.double() if v.is_floating_point() else v for k, v in x.items()}
    double["sample"].requires_grad_()
    out = run(model, double)
    error = (single - out).abs().max().item()
    assert error < 2e-5, (name, error)
    out.square().mean().backward()

    summaries = torch.zeros(len(parameters), 3, dtype=torch.float64)
    for row, p in zip(summaries, parameters.values()):
        if p.grad is not None:
            g = p.grad.flatten()
            wave = (0.1 * torch.arange(len(g), dtype=torch.float64) + 0.3).cos()
            row[:] = torch.stack([g.sum(), (g * wave).sum(), g.square().sum().sqrt()])
    tensors |= {f"{name}.{k}": v for k, v in x.items()}
    tensors |= {f"{name}.out": out.detach().contiguous(), f"{name}.grad_sample": double["sample"].grad,
                f"{name}.grads": summaries}
    descriptions.append({
        "name": name, "class": cls, "config": config, "parameters": {n: list(p.shape) for n, p in parameters.items()},
        "inputs": list(x), "no_gradient": [n for n, p in parameters.items() if p.grad is None],
    })

here = Path(__file__).parent
lines = ",\n".join(json.dumps(d) for d in descriptions)
(here / "models.json").write_text(f'{{"peer": "diffusers 0.42.1, torch 2.13.0", "cases": [\n{lines}\n]}}\n')
save_file(tensors, here / "models.safetensors")

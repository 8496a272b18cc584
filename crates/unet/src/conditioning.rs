//! What the blocks of a UNet are told: noise level, class, text, image.

use crate::plan::{AddedPlan, ClassPlan, ConditioningPlan, ContextPlan};
use heldout_core::{Cond, Error, Result};
use heldout_nn::{
    Activation, Conv2d, Embedded, Embedding, EmbeddingMlp, LayerNorm, Linear, MlpOptions, Surroundings,
    TimeEmbedding, attend_in_f32, mask_bias, sinusoidal, variable,
};
use tch::{Kind, Tensor, nn};

/// What all blocks are told in one forward pass.
#[derive(Debug)]
pub struct Told {
    /// The time embedding with everything that is added to it.
    pub embedded: Embedded,
    /// The context as the blocks see it, `[B, L, D]`.
    pub context: Option<Tensor>,
    /// What a mask of the context adds to the scores of attention, `[B, 1, 1, L]`.
    pub bias: Option<Tensor>,
    /// The hint, to stand beside the input.
    pub hint: Option<Tensor>,
}

impl Told {
    /// As the blocks take it.
    pub fn around(&self, train: bool) -> Surroundings<'_> {
        let Self { embedded, context, bias, .. } = self;
        Surroundings { embedded, context: context.as_ref(), bias: bias.as_ref(), train }
    }
}

#[derive(Debug)]
enum Class {
    Table(Embedding),
    Timestep(EmbeddingMlp),
    Identity,
    Mlp(EmbeddingMlp),
    Linear(Linear),
}

#[derive(Debug)]
enum Added {
    Text(PooledText),
    TextImage { text_proj: Linear, text_norm: LayerNorm, image_proj: Linear },
    TextTime { mlp: EmbeddingMlp, time_dim: i64, flip_sin_to_cos: bool, freq_shift: f64 },
    Image { image_proj: Linear, image_norm: LayerNorm, hint: Option<Vec<Conv2d>> },
}

#[derive(Debug)]
enum Context {
    Text(Linear),
    TextImage { image_embeds: Linear, text_proj: Linear },
    Image { image_embeds: Linear, norm: LayerNorm },
}

/// Tokens made from a vector of an image: beside text, and alone.
const IMAGE_TOKENS: [i64; 2] = [10, 32];

/// What the blocks are told, from noise level and conditions.
#[derive(Debug)]
pub(crate) struct Conditioning {
    plan: ConditioningPlan,
    time: TimeEmbedding,
    class: Option<Class>,
    added: Option<Added>,
    context: Option<Context>,
}

impl Conditioning {
    /// Under `vs`: `time_proj`, `time_embedding`, `class_embedding`, `add_embedding`, `encoder_hid_proj`.
    pub(crate) fn new(vs: &nn::Path<'_>, plan: &ConditioningPlan) -> Self {
        let (time_proj, wide) = (vs / "time_proj", plan.embedding);
        let time = TimeEmbedding::new(
            &time_proj,
            &(vs / "time_embedding"),
            &plan.time,
            [plan.features, wide],
            plan.mlp,
        );
        let path = vs / "class_embedding";
        let class = plan.class.map(|class| match class {
            ClassPlan::Table(rows) => Class::Table(Embedding::new(&path, rows, wide, 1.0)),
            ClassPlan::Timestep(activation) => {
                let options = MlpOptions { activation, ..MlpOptions::default() };
                Class::Timestep(EmbeddingMlp::new(&path, plan.features, wide, options))
            }
            ClassPlan::Identity => Class::Identity,
            ClassPlan::Mlp(from) => Class::Mlp(EmbeddingMlp::new(&path, from, wide, MlpOptions::default())),
            ClassPlan::Linear(from) => Class::Linear(Linear::new(&path, from, wide)),
        });
        let added = plan.added.map(|added| Added::new(&(vs / "add_embedding"), added, wide));
        let context = plan.context.map(|context| Context::new(&(vs / "encoder_hid_proj"), context));
        Self { plan: plan.clone(), time, class, added, context }
    }

    /// `level` `[B]`.
    ///
    /// # Panics
    /// Without a condition that [`Conditioning::check`] asks for.
    pub(crate) fn forward(&self, level: &Tensor, cond: &Cond) -> Told {
        let mut embedding = self.time.forward(level, cond.timestep_cond.as_ref()); // [B, embedding]
        if let Some(class) = &self.class {
            let label = there(&cond.label, "class_labels");
            let vector = match class {
                Class::Table(table) => table.forward(label),
                Class::Timestep(mlp) => mlp.forward(&self.time.features(label), None),
                Class::Identity => label.to_kind(embedding.kind()),
                Class::Mlp(mlp) => mlp.forward(label, None),
                Class::Linear(linear) => linear.forward(&label.to_kind(embedding.kind())),
            };
            embedding = match self.plan.concat {
                true => Tensor::cat(&[embedding, vector], 1),
                false => embedding + vector,
            };
        }
        let mut hint = None;
        if let Some(added) = &self.added {
            embedding = &embedding + added.forward(cond);
            hint = added.hint(cond);
        }
        if let Some(act) = self.plan.act {
            embedding = act.apply(&embedding);
        }
        let context = match &self.context {
            Some(context) => Some(context.forward(cond)),
            None => cond.context.as_ref().map(Tensor::shallow_clone),
        };
        let bias = cond.context_mask.as_ref().map(|mask| mask_bias(mask, &embedding));
        Told { embedded: Embedded::new(embedding, self.plan.activation), context, bias, hint }
    }

    /// Which condition is missing, or of another shape than the network takes.
    pub(crate) fn check(&self, level: &Tensor, cond: &Cond) -> Result<()> {
        let (batch, plan) = (level.size()[0], &self.plan);
        self.time.check("timestep", level)?;
        match plan.class {
            Some(ClassPlan::Table(rows)) => ids("class_labels", &cond.label, batch, rows)?,
            Some(ClassPlan::Timestep(_)) => {
                shaped("class_labels", &cond.label, &[batch])?;
                self.time.check("class_labels", there(&cond.label, "class_labels"))?;
            }
            Some(ClassPlan::Identity) => shaped("class_labels", &cond.label, &[batch, plan.embedding])?,
            Some(ClassPlan::Mlp(from) | ClassPlan::Linear(from)) => {
                shaped("class_labels", &cond.label, &[batch, from])?;
            }
            None => absent("class_labels", &cond.label)?,
        }
        match plan.added {
            Some(AddedPlan::TextImage(width)) => {
                // Where no vector of the text is given, its tokens cannot stand in for one.
                shaped("text_embeds", &cond.text_embeds, &[batch, width])?;
                shaped("image_embeds", &cond.image_embeds, &[batch, width])?;
            }
            Some(AddedPlan::TextTime { time_dim, input, .. }) => {
                let ids = cond.time_ids.as_ref().map_or(0, |t| t.size().get(1).copied().unwrap_or(0));
                shaped("time_ids", &cond.time_ids, &[batch, ids])?;
                shaped("text_embeds", &cond.text_embeds, &[batch, input - ids * time_dim])?;
            }
            Some(AddedPlan::Image(width)) => shaped("image_embeds", &cond.image_embeds, &[batch, width])?,
            Some(AddedPlan::ImageHint(width)) => {
                shaped("image_embeds", &cond.image_embeds, &[batch, width])?;
                shaped("hint", &cond.hint, &[batch, 3, -1, -1])?;
            }
            Some(AddedPlan::Text { .. }) | None => {}
        }
        match plan.context {
            Some(ContextPlan::Image { from, .. }) => {
                shaped("image_embeds", &cond.image_embeds, &[batch, from])?;
            }
            Some(ContextPlan::TextImage { text, to }) => {
                shaped("image_embeds", &cond.image_embeds, &[batch, to])?;
                shaped("encoder_hidden_states", &cond.context, &[batch, -1, text])?;
            }
            Some(ContextPlan::Text { from, .. }) => {
                shaped("encoder_hidden_states", &cond.context, &[batch, -1, from])?;
            }
            None => match plan.context_dim {
                Some(width) => shaped("encoder_hidden_states", &cond.context, &[batch, -1, width])?,
                None => absent("encoder_hidden_states", &cond.context)?,
            },
        }
        if let Some(mask) = &cond.context_mask {
            let given = cond.context.as_ref().map_or(0, |c| c.size()[1]);
            let tokens = match plan.context {
                Some(ContextPlan::TextImage { .. }) => given + IMAGE_TOKENS[0],
                Some(ContextPlan::Image { .. }) => IMAGE_TOKENS[1],
                _ => given,
            };
            shaped("encoder_attention_mask", &Some(mask.shallow_clone()), &[batch, tokens])?;
        }
        absent("mask", &cond.mask)?;
        match plan.mlp.cond {
            Some(width) if cond.timestep_cond.is_some() => {
                shaped("timestep_cond", &cond.timestep_cond, &[batch, width])
            }
            Some(_) => Ok(()),
            None => absent("timestep_cond", &cond.timestep_cond),
        }
    }
}

impl Added {
    fn new(vs: &nn::Path<'_>, plan: AddedPlan, wide: i64) -> Self {
        let linear = |name, from| Linear::new(&(vs / name), from, wide);
        let norm = |name| LayerNorm::new(&(vs / name), wide, 1e-5);
        match plan {
            AddedPlan::Text { context, heads } => Self::Text(PooledText::new(vs, context, wide, heads)),
            AddedPlan::TextImage(from) => Self::TextImage {
                text_proj: linear("text_proj", from),
                text_norm: norm("text_norm"),
                image_proj: linear("image_proj", from),
            },
            AddedPlan::TextTime { time_dim, input, flip_sin_to_cos, freq_shift } => {
                let mlp = EmbeddingMlp::new(vs, input, wide, MlpOptions::default());
                Self::TextTime { mlp, time_dim, flip_sin_to_cos, freq_shift }
            }
            AddedPlan::Image(from) | AddedPlan::ImageHint(from) => {
                let is_hinted = matches!(plan, AddedPlan::ImageHint(_));
                Self::Image {
                    image_proj: linear("image_proj", from),
                    image_norm: norm("image_norm"),
                    hint: is_hinted.then(|| hint_block(&(vs / "input_hint_block"))),
                }
            }
        }
    }

    fn forward(&self, cond: &Cond) -> Tensor {
        match self {
            Self::Text(pool) => pool.forward(there(&cond.context, "encoder_hidden_states")),
            Self::TextImage { text_proj, text_norm, image_proj } => {
                let text = text_norm.forward(&text_proj.forward(there(&cond.text_embeds, "text_embeds")));
                image_proj.forward(there(&cond.image_embeds, "image_embeds")) + text
            }
            Self::TextTime { mlp, time_dim, flip_sin_to_cos, freq_shift } => {
                let text = there(&cond.text_embeds, "text_embeds");
                let ids = there(&cond.time_ids, "time_ids");
                let times = sinusoidal(&ids.reshape([-1]), *time_dim, *flip_sin_to_cos, *freq_shift);
                let times = times.reshape([ids.size()[0], -1]).to_kind(text.kind());
                mlp.forward(&Tensor::cat(&[text, &times], 1), None)
            }
            Self::Image { image_proj, image_norm, .. } => {
                image_norm.forward(&image_proj.forward(there(&cond.image_embeds, "image_embeds")))
            }
        }
    }

    /// The hint at the size of the latents, `[B, 4, H, W]`.
    fn hint(&self, cond: &Cond) -> Option<Tensor> {
        let Self::Image { hint: Some(block), .. } = self else { return None };
        let mut h = there(&cond.hint, "hint").shallow_clone();
        for (i, conv) in block.iter().enumerate() {
            h = conv.forward(&h);
            if i + 1 < block.len() {
                h = Activation::Silu.apply(&h);
            }
        }
        Some(h)
    }
}

/// Eight convolutions that bring a hint image to an eighth of its size.
fn hint_block(vs: &nn::Path<'_>) -> Vec<Conv2d> {
    const WIDTHS: [i64; 9] = [3, 16, 16, 32, 32, 96, 96, 256, 4];
    let conv = |i: usize| {
        let stride = if matches!(i, 2 | 4 | 6) { 2 } else { 1 };
        Conv2d::new(&(vs / (2 * i)), WIDTHS[i], WIDTHS[i + 1], 3, stride)
    };
    (0..8).map(conv).collect()
}

impl Context {
    fn new(vs: &nn::Path<'_>, plan: ContextPlan) -> Self {
        match plan {
            ContextPlan::Text { from, to } => Self::Text(Linear::new(vs, from, to)),
            ContextPlan::TextImage { text, to } => Self::TextImage {
                image_embeds: Linear::new(&(vs / "image_embeds"), to, IMAGE_TOKENS[0] * to),
                text_proj: Linear::new(&(vs / "text_proj"), text, to),
            },
            ContextPlan::Image { from, to } => Self::Image {
                image_embeds: Linear::new(&(vs / "image_embeds"), from, IMAGE_TOKENS[1] * to),
                norm: LayerNorm::new(&(vs / "norm"), to, 1e-5),
            },
        }
    }

    fn forward(&self, cond: &Cond) -> Tensor {
        let text = || there(&cond.context, "encoder_hidden_states");
        let tokens = |made: &Linear, n: i64| {
            let image = there(&cond.image_embeds, "image_embeds");
            made.forward(image).reshape([image.size()[0], n, -1])
        };
        match self {
            Self::Text(linear) => linear.forward(text()),
            Self::TextImage { image_embeds, text_proj } => {
                Tensor::cat(&[tokens(image_embeds, IMAGE_TOKENS[0]), text_proj.forward(text())], 1)
            }
            Self::Image { image_embeds, norm } => norm.forward(&tokens(image_embeds, IMAGE_TOKENS[1])),
        }
    }
}

/// A text in one vector: its tokens, seen by their mean through attention. diffusers' `TextTimeEmbedding`.
#[derive(Debug)]
struct PooledText {
    norm1: LayerNorm,
    positional_embedding: Tensor,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    heads: i64,
    proj: Linear,
    norm2: LayerNorm,
}

impl PooledText {
    fn new(vs: &nn::Path<'_>, context: i64, wide: i64, heads: i64) -> Self {
        let pool = vs / "pool";
        let start = nn::Init::Randn { mean: 0.0, stdev: (context as f64).powf(-0.5) };
        let linear = |name| Linear::new(&(&pool / name), context, context);
        Self {
            norm1: LayerNorm::new(&(vs / "norm1"), context, 1e-5),
            positional_embedding: variable(&pool, "positional_embedding", &[1, context], start),
            q_proj: linear("q_proj"),
            k_proj: linear("k_proj"),
            v_proj: linear("v_proj"),
            heads,
            proj: Linear::new(&(vs / "proj"), context, wide),
            norm2: LayerNorm::new(&(vs / "norm2"), wide, 1e-5),
        }
    }

    /// `[B, L, D] -> [B, embedding]`.
    fn forward(&self, context: &Tensor) -> Tensor {
        let x = self.norm1.forward(context);
        let mean = x.mean_dim(1i64, true, x.kind()) + &self.positional_embedding; // [B, 1, D]
        let x = Tensor::cat(&[&mean, &x], 1);
        let split = |t: Tensor| {
            let size = t.size();
            t.view([size[0], size[1], self.heads, -1]).transpose(1, 2)
        };
        let q = split(self.q_proj.forward(&mean));
        let pooled = attend_in_f32(&q, &split(self.k_proj.forward(&x)), &split(self.v_proj.forward(&x)));
        let size = context.size();
        self.norm2.forward(&self.proj.forward(&pooled.transpose(1, 2).reshape([size[0], size[2]])))
    }
}

fn there<'a>(condition: &'a Option<Tensor>, name: &str) -> &'a Tensor {
    condition.as_ref().unwrap_or_else(|| panic!("the network needs {name}: see `Backbone::check`"))
}

fn absent(name: &str, condition: &Option<Tensor>) -> Result<()> {
    match condition {
        Some(_) => Err(Error::config(name, "is given, and the network was built without it: leave it out")),
        None => Ok(()),
    }
}

/// -1 stands for any size.
fn shaped(name: &str, condition: &Option<Tensor>, shape: &[i64]) -> Result<()> {
    let wanted = || shape.iter().map(|n| if *n < 0 { "any".to_owned() } else { n.to_string() });
    let wanted = || format!("[{}]", wanted().collect::<Vec<_>>().join(", "));
    let Some(t) = condition else {
        return Err(Error::config(name, format!("is missing: the network needs it as {}", wanted())));
    };
    let size = t.size();
    let fits = size.len() == shape.len() && size.iter().zip(shape).all(|(a, b)| *b < 0 || a == b);
    if fits {
        return Ok(());
    }
    Err(Error::config(name, format!("is of shape {size:?}: the network needs {}", wanted())))
}

fn ids(name: &str, condition: &Option<Tensor>, batch: i64, rows: i64) -> Result<()> {
    shaped(name, condition, &[batch])?;
    let Some(t) = condition else { return Ok(()) };
    if matches!(t.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16) {
        return Err(Error::config(name, format!("is of kind {:?}: class ids are whole numbers", t.kind())));
    }
    let (low, high) = (t.min().int64_value(&[]), t.max().int64_value(&[]));
    if low >= 0 && high < rows {
        return Ok(());
    }
    let bad = if low < 0 { low } else { high };
    Err(Error::config(name, format!("{bad} is not a class: they are 0 to {}", rows - 1)))
}

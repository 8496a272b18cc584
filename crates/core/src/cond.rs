//! Conditions: what a network is told besides `x_t` and the noise level.

use tch::Tensor;

/// What the network is told besides `x_t` and the noise level; every field starts with the batch `B`.
///
/// A network takes those that it was built for and answers for the others with an error ([`crate::Backbone::check`]).
#[derive(Debug, Default)]
pub struct Cond {
    /// Class ids, `[B]`, `Int64`; or vectors `[B, D]` for networks that are told of a class in this way.
    pub label: Option<Tensor>,
    /// Token features, `[B, L, D]`.
    pub context: Option<Tensor>,
    /// 1 for tokens of the context that are seen and 0 for the others, `[B, L]`.
    pub context_mask: Option<Tensor>,
    /// A vector of the whole text, `[B, D]`.
    pub text_embeds: Option<Tensor>,
    /// Original size, crop and target size of the images, `[B, 6]`, or further numbers of this kind.
    pub time_ids: Option<Tensor>,
    /// A vector of an image, `[B, D]`.
    pub image_embeds: Option<Tensor>,
    /// Images to follow, `[B, C, H, W]`, of the size of the images in pixels: three channels, or those of several side by side
    /// ([`crate::Adapter::hint_channels`]).
    pub hint: Option<Tensor>,
    /// What is added to the features of the noise level, as the strength of a distilled guidance, `[B, D]`.
    pub timestep_cond: Option<Tensor>,
    /// 1 where `x_t` may be looked at and 0 where it is unknown, `[B, 1, H, W]`: see [`crate::Known::input`].
    pub mask: Option<Tensor>,
}

impl Cond {
    /// A class for each row, `[B]`.
    pub fn of_labels(label: Tensor) -> Self {
        Self { label: Some(label), ..Self::default() }
    }

    /// Every field with its name in a file of tensors.
    pub fn fields(&self) -> [(&'static str, &Option<Tensor>); 9] {
        let Self {
            label,
            context,
            context_mask,
            text_embeds,
            time_ids,
            image_embeds,
            hint,
            timestep_cond,
            mask,
        } = self;
        [
            ("class_labels", label),
            ("encoder_hidden_states", context),
            ("encoder_attention_mask", context_mask),
            ("text_embeds", text_embeds),
            ("time_ids", time_ids),
            ("image_embeds", image_embeds),
            ("hint", hint),
            ("timestep_cond", timestep_cond),
            ("mask", mask),
        ]
    }

    /// From a value for every name of [`Cond::fields`].
    pub fn from_fields(mut field: impl FnMut(&'static str) -> Option<Tensor>) -> Self {
        Self {
            label: field("class_labels"),
            context: field("encoder_hidden_states"),
            context_mask: field("encoder_attention_mask"),
            text_embeds: field("text_embeds"),
            time_ids: field("time_ids"),
            image_embeds: field("image_embeds"),
            hint: field("hint"),
            timestep_cond: field("timestep_cond"),
            mask: field("mask"),
        }
    }

    /// Every field that is there, changed.
    #[must_use]
    pub fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        let mut fields = self.fields().into_iter();
        Self::from_fields(|_| fields.next().and_then(|(_, t)| t.as_ref().map(&change)))
    }

    /// The same tensors under new handles.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        self.map(Tensor::shallow_clone)
    }

    /// The rows of all of these, one after another; `None` if they do not fit together.
    pub fn cat(all: &[Self]) -> Option<Self> {
        let mut fits = true;
        let fields = all.iter().map(Self::fields).collect::<Vec<_>>();
        let mut number = 0..;
        let joined = Self::from_fields(|_| {
            let i = number.next()?;
            let parts: Vec<&Tensor> = fields.iter().filter_map(|f: &[_; 9]| f[i].1.as_ref()).collect();
            let first = parts.first()?;
            let same = |t: &&Tensor| t.size()[1..] == first.size()[1..] && t.kind() == first.kind();
            fits &= parts.len() == all.len() && parts.iter().all(same);
            fits.then(|| Tensor::cat(&parts, 0))
        });
        fits.then_some(joined)
    }

    /// One row as `rows` rows; as many as that stay as they are.
    #[must_use]
    pub fn expand(&self, rows: i64) -> Self {
        self.map(|t| {
            let mut size = t.size();
            size[0] = rows;
            t.expand(size, false)
        })
    }

    /// Rows `start..start + len` of the batch.
    #[must_use]
    pub fn narrow(&self, start: i64, len: i64) -> Self {
        self.map(|t| t.narrow(0, start, len))
    }

    /// The rows that `rows` `[K]`, `Int64`, names.
    #[must_use]
    pub fn select(&self, rows: &Tensor) -> Self {
        self.map(|t| t.index_select(0, rows))
    }
}
